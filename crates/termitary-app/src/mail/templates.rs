//! The words of the mails.

/// Subject and text of a mail.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) subject: String,
    pub(super) text: String,
}

pub(super) fn welcome(name: &str, url: &str) -> Letter {
    Letter {
        subject: format!("Welcome, {name}"),
        text: format!(
            "Hello {name},\n\nyour account is ready. What there is to do waits at\n{url}\n\nTermitary\n"
        ),
    }
}

pub(super) fn assignment(name: &str, title: &str, todo: &str, url: &str) -> Letter {
    Letter {
        subject: format!("For you: {title}"),
        text: format!(
            "Hello {name},\n\nthis todo was assigned to you:\n\n  {title}\n  {url}/api/v1/todos/{todo}\n\nTermitary\n"
        ),
    }
}

pub(super) fn overdue(name: &str, title: &str, todo: &str, due: &str, url: &str) -> Letter {
    Letter {
        subject: format!("Overdue: {title}"),
        text: format!(
            "Hello {name},\n\nthis todo was due on {due} and is still open:\n\n  {title}\n  {url}/api/v1/todos/{todo}\n\nThis is the only reminder for that date.\n\nTermitary\n"
        ),
    }
}

pub(super) fn new_device(at: &str, address: Option<&str>, agent: Option<&str>) -> Letter {
    let address = address.unwrap_or("unknown");
    let agent = agent.unwrap_or("unknown");
    Letter {
        subject: "A login from a new device".to_owned(),
        text: format!(
            "Hello,\n\nsomebody logged in to your account from a device not seen before:\n\n  when   {at}\n  from   {address}\n  with   {agent}\n\nIf that was you, there is nothing to do. If not, change your password, which\nends every other session.\n\nTermitary\n"
        ),
    }
}
