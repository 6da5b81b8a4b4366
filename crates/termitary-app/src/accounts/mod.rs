//! What a person's account is: shared ground of the `auth` and `users`
//! modules. It has no routes and no handlers.

mod passwords;

use std::fmt;

use garde::Validate;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;
use termitary::Tx;
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
pub(crate) const USER_COLUMNS: &str = "id, email, name, role, created_us, updated_us";

impl sqlx::FromRow<'_, SqliteRow> for User {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        use sqlx::Row;
        Ok(Self {
            id: row.try_get("id")?,
            email: row.try_get("email")?,
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
}

impl Draft {
    pub(crate) fn new(email: &str, name: &str, role: Role) -> Self {
        Self {
            email: normal_email(email),
            name: name.trim().to_owned(),
            role,
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
        "INSERT INTO users (id, email, name, role, password_hash, created_us, updated_us)
         VALUES ($1, $2, $3, $4, $5, $6, $6) ON CONFLICT (email) DO NOTHING",
    )
    .bind(id)
    .bind(&draft.email)
    .bind(&draft.name)
    .bind(draft.role.as_str())
    .bind(password_hash)
    .bind(now.as_microsecond())
    .execute(&mut **tx)
    .await?;
    if inserted.rows_affected() == 0 {
        return Ok(Err(EmailTaken));
    }
    let Draft { email, name, role } = draft;
    let user = User {
        id,
        email,
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
pub(crate) async fn find(conn: &mut SqliteConnection, id: Uuid) -> sqlx::Result<Option<User>> {
    sqlx::query_as("SELECT id, email, name, role, created_us, updated_us FROM users WHERE id = $1")
        .bind(id)
        .fetch_optional(conn)
        .await
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
