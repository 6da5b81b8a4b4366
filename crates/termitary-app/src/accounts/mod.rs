//! What a person's account is: shared ground of the `auth` and `users`
//! modules. It has no routes and no handlers.

pub(crate) mod changes;
pub(crate) mod links;
mod passwords;

use std::fmt;

use garde::Validate;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Sqlite};
use termitary::{Conn, Tx};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::mail::is_address;
use crate::provenance::{self, Provenance};
use crate::users::events::UserCreated;

pub use passwords::HashCost;
pub(crate) use passwords::{Passwords, PasswordsBusy, check_password};

/// What a user may do.
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

    fn parse(text: &str) -> Self {
        if text == "admin" {
            Self::Admin
        } else {
            Self::User
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A person, as the API shows them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// UUIDv7.
    pub id: Uuid,
    /// In lower case, unique.
    pub email: String,
    /// Whether the link that was sent there was followed: mail about todos goes
    /// to confirmed addresses only.
    pub email_confirmed: bool,
    /// The address that was asked for in its place; it counts once the link
    /// that was sent there is followed.
    pub pending_email: Option<String>,
    /// As they want to be called.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// When the account was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it was last changed.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: Timestamp,
}

/// The columns that [`User`] is read from.
pub(crate) const USER_COLUMNS: &str =
    "id, email, confirmed_us, pending_email, name, role, created_us, updated_us";

impl sqlx::FromRow<'_, SqliteRow> for User {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        use sqlx::Row;
        Ok(Self {
            id: row.try_get("id")?,
            email: row.try_get("email")?,
            email_confirmed: row.try_get::<Option<i64>, _>("confirmed_us")?.is_some(),
            pending_email: row.try_get("pending_email")?,
            name: row.try_get("name")?,
            role: Role::parse(row.try_get("role")?),
            created_at: crate::app::instant(row.try_get("created_us")?),
            updated_at: crate::app::instant(row.try_get("updated_us")?),
        })
    }
}

/// What an account is made from; the address is checked and lower case.
#[derive(Clone, Debug, Validate)]
pub(crate) struct Draft {
    #[garde(custom(check_email), length(max = 254))]
    pub(crate) email: String,
    #[garde(custom(check_name))]
    pub(crate) name: String,
    #[garde(skip)]
    pub(crate) role: Role,
    /// Somebody who may say so vouches for the address.
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

/// The address has an account already.
#[derive(Debug)]
pub(crate) struct EmailTaken;

/// Makes the account and publishes `users.created`, in the caller's
/// transaction. `actor` is who made it; the new user, where nobody else did.
pub(crate) async fn create(
    tx: &mut Tx,
    draft: Draft,
    password_hash: &str,
    actor: Option<Uuid>,
    id: Uuid,
    now: Timestamp,
) -> Result<Result<User, EmailTaken>, termitary::Error> {
    let inserted = sqlx::query(
        "INSERT INTO users (id, email, name, role, password_hash, created_us, updated_us, confirmed_us)
         VALUES ($1, $2, $3, $4, $5, $6, $6, $7) ON CONFLICT (email) DO NOTHING",
    )
    .bind(id)
    .bind(&draft.email)
    .bind(&draft.name)
    .bind(draft.role.as_str())
    .bind(password_hash)
    .bind(now.as_microsecond())
    .bind(draft.email_confirmed.then(|| now.as_microsecond()))
    .execute(&mut *tx)
    .await?;
    if inserted.rows_affected() == 0 {
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
    provenance::publish(tx, UserCreated::from(&user), id, known, now).await?;
    Ok(Ok(user))
}

/// The user of this id.
pub(crate) async fn find(conn: &mut Conn, id: Uuid) -> sqlx::Result<Option<User>> {
    let mut query = QueryBuilder::<Sqlite>::new("SELECT ");
    query
        .push(USER_COLUMNS)
        .push(" FROM users WHERE id = ")
        .push_bind(id);
    query.build_query_as().fetch_optional(conn).await
}

/// The user whose account has this address.
pub(crate) async fn find_by_email(conn: &mut Conn, email: &str) -> sqlx::Result<Option<User>> {
    let mut query = QueryBuilder::<Sqlite>::new("SELECT ");
    query
        .push(USER_COLUMNS)
        .push(" FROM users WHERE email = ")
        .push_bind(normal_email(email));
    query.build_query_as().fetch_optional(conn).await
}

/// One address has one spelling.
pub(crate) fn normal_email(email: &str) -> String {
    email.trim().to_lowercase()
}

/// An address that the mailer can write to.
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

/// A name goes into mails and feeds: one line, not blank, not a page.
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
