//! The texts of the mails.
//!
//! Subjects are fixed and contain no text of users. Bodies quote such texts on one line
//! and shortened; mail to an unconfirmed address contains none.

/// The most characters of a quoted text.
const QUOTED: usize = 100;

/// Subject and text of a mail.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) subject: &'static str,
    pub(super) text: String,
}

/// To a newly registered address: the welcome and the link in one.
pub(super) fn welcome_to_confirm(url: &str, token: &str) -> Letter {
    Letter {
        subject: "Welcome to Termitary: please confirm your address",
        text: format!(
            "Hello,\n\nyour account is ready. Confirm that this address is yours, and mail about your\ntodos will come here:\n\n{url}/confirm/{token}\n\nThe link works for 7 days. If it was not you who registered, there is nothing to\ndo: no more mail comes here.\n\nTermitary\n"
        ),
    }
}

/// To an address that needs no confirmation.
pub(super) fn welcome(url: &str) -> Letter {
    Letter {
        subject: "Welcome to Termitary",
        text: format!(
            "Hello,\n\nyour account is ready. See what there is to do at\n{url}\n\nTermitary\n"
        ),
    }
}

/// To the address of an account, when its owner asks for the link again.
pub(super) fn confirm(url: &str, token: &str) -> Letter {
    Letter {
        subject: "Please confirm your address",
        text: format!(
            "Hello,\n\nconfirm that this address is yours:\n\n{url}/confirm/{token}\n\nThe link works for 7 days. If you did not ask for it, there is nothing to do.\n\nTermitary\n"
        ),
    }
}

/// To an address that a user requested for their account.
pub(super) fn confirm_change(url: &str, token: &str) -> Letter {
    Letter {
        subject: "Please confirm your new address",
        text: format!(
            "Hello,\n\nsomebody wants to use this address for their account at\n{url}\n\nIf that was you, open this link, and the address is changed:\n\n{url}/confirm/{token}\n\nThe link works for 7 days. If it was not you, there is nothing to do: without the\nlink nothing changes.\n\nTermitary\n"
        ),
    }
}

/// To an address with an account, when another user requested it.
pub(super) fn address_taken(url: &str) -> Letter {
    Letter {
        subject: "This address has an account already",
        text: format!(
            "Hello,\n\nsomebody wants to use this address for their account at\n{url}\n\nIt has an account already, so nothing was changed. If that was you, log in with\nthis address, or delete that account first. If not, there is nothing to do.\n\nTermitary\n"
        ),
    }
}

/// To the old address of an account.
pub(super) fn address_changed(url: &str) -> Letter {
    Letter {
        subject: "The address of your account was changed",
        text: format!(
            "Hello,\n\nthe account that had this address at\n{url}\nhas another one now: somebody who knew its password asked for that, and\nconfirmed it from the new address.\n\nIf that was you, there is nothing to do. If not, tell those who run this service.\n\nTermitary\n"
        ),
    }
}

/// To the present address, when another one was requested.
pub(super) fn address_change_requested(url: &str) -> Letter {
    Letter {
        subject: "Your account may get another address",
        text: format!(
            "Hello,\n\nsomebody with your password asked to move your account to another address. It moves\nwhen the link in a mail to that address is followed.\n\nIf that was you, there is nothing to do here. If not, set a new password at\n{url}/forgot\nwhich also withdraws the change.\n\nTermitary\n"
        ),
    }
}

/// To an account whose password was changed.
pub(super) fn password_changed(at: &str, url: &str) -> Letter {
    Letter {
        subject: "Your password was changed",
        text: format!(
            "Hello,\n\nthe password of your account was changed, and every session was ended:\n\n  when   {at}\n\nIf that was you, there is nothing to do. If not, set a new one at\n{url}/forgot\nand tell those who run this service.\n\nTermitary\n"
        ),
    }
}

/// To a user who forgot their password.
pub(super) fn reset(url: &str, token: &str) -> Letter {
    Letter {
        subject: "A new password",
        text: format!(
            "Hello,\n\nsomebody asked for a new password for the account of this address. Set it here:\n\n{url}/reset/{token}\n\nThe link works once, and for an hour. If you did not ask for it, there is nothing\nto do: the password stays as it is.\n\nTermitary\n"
        ),
    }
}

pub(super) fn assignment(name: &str, title: &str, link: &str) -> Letter {
    Letter {
        subject: "A todo was assigned to you",
        text: format!(
            "Hello {},\n\nthis todo was assigned to you:\n\n  > {}\n  {link}\n\nTermitary\n",
            quoted(name),
            quoted(title)
        ),
    }
}

pub(super) fn overdue(name: &str, title: &str, due: &str, link: &str) -> Letter {
    Letter {
        subject: "A todo is overdue",
        text: format!(
            "Hello {},\n\nthis todo was due on {} and is still open:\n\n  > {}\n  {link}\n\nThis is the only reminder for that date.\n\nTermitary\n",
            quoted(name),
            quoted(due),
            quoted(title)
        ),
    }
}

pub(super) fn new_device(
    at: &str,
    address: Option<&str>,
    agent: Option<&str>,
    url: &str,
) -> Letter {
    let address = quoted(address.unwrap_or("unknown"));
    let agent = quoted(agent.unwrap_or("unknown"));
    Letter {
        subject: "A login from a new device",
        text: format!(
            "Hello,\n\nsomebody logged in to your account from a device not seen before:\n\n  when   {at}\n  from   {address}\n  with   {agent}\n\nIf that was you, there is nothing to do. If not, set a new password at\n{url}/forgot\nwhich ends every session.\n\nTermitary\n"
        ),
    }
}

/// Adds the note of the last mail that the limits allow.
pub(super) fn last_for_now(text: &str, url: &str) -> String {
    format!(
        "{text}\n-- \nThis is the last mail of its kind for now: you get too many. See what else there\nis at {url}\n"
    )
}

/// A text of a user on one line and shortened, without control characters and without
/// characters that hide or reverse the text around them.
fn quoted(text: &str) -> String {
    let visible = text.chars().filter(|letter| !is_invisible(*letter));
    let one_line: String = visible
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect();
    let one_line = one_line.trim();
    if one_line.chars().count() <= QUOTED {
        return one_line.to_owned();
    }
    one_line.chars().take(QUOTED - 1).chain(['…']).collect()
}

fn is_invisible(letter: char) -> bool {
    matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{ad}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_text_is_one_short_line_that_hides_nothing() {
        assert_eq!(quoted(" Water\r\nthe plants "), "Water  the plants");
        assert_eq!(quoted("evil\u{202e}txt.exe\u{200b}"), "eviltxt.exe");
        let long = quoted(&"x".repeat(1_000));
        assert_eq!(long.chars().count(), QUOTED);
        assert!(long.ends_with('…'));
    }

    #[test]
    fn a_link_stands_alone_on_a_line_that_no_mail_program_breaks() {
        let token = format!("ttm_{}", "x".repeat(27));
        let url = "https://todos.example.com";
        for letter in [
            welcome_to_confirm(url, &token),
            confirm(url, &token),
            confirm_change(url, &token),
            reset(url, &token),
        ] {
            let line = letter.text.lines().find(|line| line.contains(&token));
            assert!(
                line.is_some_and(|line| line.starts_with("https://") && line.len() < 76),
                "{letter:?}"
            );
            assert!(letter.text.is_ascii() && letter.subject.is_ascii());
        }
    }
}
