//! Accounts: users, their roles, passwords, links and sessions. Several features need
//! them; there are no routes and no handlers here.

pub(crate) mod changes;
mod lookups;
mod passwords;
pub(crate) mod sessions;
mod store;

use std::fmt;

use garde::Validate;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use termitary::Tx;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::mailer::is_address;
use crate::provenance::{self, Provenance};
use crate::users::events::UserCreated;

pub(crate) use lookups::SessionError;
pub(crate) use passwords::{Passwords, PasswordsBusy, check_own_password, check_password};
pub(crate) use sessions::{Session, Sessions, Which};
pub(crate) use store::sessions::session_ids;
pub(crate) use store::{
    credentials, delete, exists, exists_to_refer_to, find, find_by_email, find_by_email_to_change,
    find_to_change, links, page, password_hash, password_hash_to_change, renew_password_hash,
    update,
};

/// The role of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Sees and changes what they own or are assigned.
    User,
    /// Sees and changes everything.
    Admin,
}

impl Role {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Admin => "admin",
        }
    }

    /// The role of this name; an unknown name gives no rights.
    pub(crate) fn parse(text: &str) -> Self {
        if text == "admin" {
            Self::Admin
        } else {
            Self::User
        }
    }
}

/// The user behind a request, by their session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) user: Uuid,
    pub(crate) role: Role,
    pub(crate) session: Uuid,
}

impl Caller {
    pub(crate) fn is_admin(&self) -> bool {
        self.role == Role::Admin
    }

    /// Returns true if the caller may act for `user`: users for themselves, admins for
    /// everyone.
    pub(crate) fn may_act_for(&self, user: Uuid) -> bool {
        self.user == user || self.is_admin()
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A user, as the API shows them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// UUIDv7.
    pub id: Uuid,
    /// In lower case, unique.
    pub email: String,
    /// True once the link that was sent to the address was followed. Mail about todos
    /// goes to confirmed addresses only.
    pub email_confirmed: bool,
    /// The requested new address. It replaces `email` once the link that was sent to it
    /// is followed.
    pub pending_email: Option<String>,
    /// The name that others see.
    pub name: String,
    /// `user` or `admin`.
    pub role: Role,
    /// The time of creation.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// The time of the last change.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// The data of a new account; the address is in lower case.
#[derive(Clone, Debug, Validate)]
pub(crate) struct Draft {
    #[garde(custom(check_email), length(max = 254))]
    pub(crate) email: String,
    #[garde(custom(check_name))]
    pub(crate) name: String,
    #[garde(skip)]
    pub(crate) role: Role,
    /// True if an operator vouches for the address.
    #[garde(skip)]
    pub(crate) email_confirmed: bool,
}

impl Draft {
    pub(crate) fn new(email: &str, name: &str, role: Role) -> Self {
        Self {
            email: normal_email(email),
            name: name.trim().to_owned(),
            role,
            email_confirmed: false,
        }
    }

    pub(crate) fn with_confirmed_email(self) -> Self {
        Self {
            email_confirmed: true,
            ..self
        }
    }
}

/// The address already has an account.
#[derive(Debug)]
pub(crate) struct EmailTaken;

/// Creates the account and publishes `users.created`, in the caller's transaction.
/// `actor` is the user who creates it; `None` stands for the new user.
pub(crate) async fn create(
    tx: &mut Tx,
    draft: Draft,
    password_hash: &str,
    actor: Option<Uuid>,
    id: Uuid,
    now: Timestamp,
) -> Result<Result<User, EmailTaken>, termitary::Error> {
    if !store::insert(tx, id, &draft, password_hash, now).await? {
        return Ok(Err(EmailTaken));
    }
    let Draft {
        email,
        name,
        role,
        email_confirmed,
    } = draft;
    let user = User {
        id,
        email,
        email_confirmed,
        pending_email: None,
        name,
        role,
        created_at: now,
        updated_at: now,
    };
    let known = Provenance::by(actor.unwrap_or(id), vec![id]);
    provenance::publish(tx, created(&user), id, known, now).await?;
    Ok(Ok(user))
}

fn created(user: &User) -> UserCreated {
    UserCreated {
        id: user.id.to_string(),
        email: user.email.clone(),
        name: user.name.clone(),
    }
}

/// The one spelling of an address: trimmed and in lower case.
pub(crate) fn normal_email(email: &str) -> String {
    email.trim().to_lowercase()
}

/// Checks that mail can be sent to the address.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "garde hands its context over by reference"
)]
fn check_email(email: &str, (): &()) -> garde::Result {
    garde::rules::email::apply(&email, ())?;
    if is_address(email) {
        return Ok(());
    }
    Err(garde::Error::new("not an address that mail can be sent to"))
}

/// Checks a name. It appears in mails and feeds, so it is one short line.
#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "garde hands its context over by reference"
)]
pub(crate) fn check_name(name: &str, (): &()) -> garde::Result {
    let length = name.chars().count();
    if name.trim().is_empty() || length > 100 {
        return Err(garde::Error::new("must have 1 to 100 characters"));
    }
    if name.chars().any(char::is_control) {
        return Err(garde::Error::new("must not have control characters"));
    }
    Ok(())
}
