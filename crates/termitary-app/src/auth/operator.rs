//! Account administration on the command line. It needs no password: an operator who can
//! run it can write to the database anyway.

use anyhow::bail;
use garde::Validate;
use termitary::Conn;
use uuid::Uuid;

use crate::accounts::changes::{self, Refused};
use crate::accounts::{self, Draft, Role, User, Which, check_password};
use crate::app::App;
use crate::config::{Mistake, escape};
use crate::provenance::{self, Provenance};
use crate::schema::Rows;

/// The data of an account that an operator creates.
#[derive(Clone)]
pub struct NewUser {
    /// The address, which is also the login.
    pub email: String,
    /// The name that others see.
    pub name: String,
    /// 8 to 256 characters.
    pub password: String,
    /// The role.
    pub role: Role,
}

/// Creates an account. This is the only way to create the first admin.
///
/// # Errors
///
/// A [`Mistake`] if a field is invalid; another error if the address has an account or
/// the database fails.
pub async fn create_user(app: &App, new: NewUser) -> anyhow::Result<User> {
    // The operator vouches for the address.
    let draft = Draft::new(&new.email, &new.name, new.role).with_confirmed_email();
    draft
        .validate()
        .map_err(|report| Mistake::new(report.to_string().trim()))?;
    check(&new.password)?;
    check_own(&new.password, &draft.email, &draft.name)?;
    let email = draft.email.clone();
    let hash = app.passwords().hash(&new.password).await?;
    let mut tx = app.db().begin().await?;
    let id = app.db().clock().new_id();
    let Ok(user) = accounts::create(&mut tx, draft, &hash, None, id, app.now()).await? else {
        bail!("{email} already has an account");
    };
    tx.commit().await?;
    Ok(user)
}

fn check(password: &str) -> Result<(), Mistake> {
    check_password(password, &()).map_err(|error| Mistake::new(format!("password: {error}")))
}

fn check_own(password: &str, email: &str, name: &str) -> Result<(), Mistake> {
    accounts::check_own_password(password, email, name)
        .map_err(|why| Mistake::new(format!("password: {why}")))
}

/// A page of users, the oldest first.
pub(crate) async fn list_users(
    app: &App,
    after: Option<Uuid>,
    limit: i64,
) -> anyhow::Result<Rows<User>> {
    Ok(accounts::page(&mut *app.db().read().await?, after, limit).await?)
}

/// Ends every session of a user; returns their number.
pub(crate) async fn end_sessions(app: &App, email: &str) -> anyhow::Result<u64> {
    let mut tx = app.db().begin().await?;
    let user = find(&mut tx, email).await?;
    let ended = accounts::sessions::end(&mut tx, user.id, Which::All).await?;
    tx.commit().await?;
    Ok(ended)
}

/// Sets a password, which ends every session of the user.
pub(crate) async fn set_password(app: &App, email: &str, password: &str) -> anyhow::Result<User> {
    check(password)?;
    let hash = app.passwords().hash(password).await?;
    let mut tx = app.db().begin().await?;
    let user = find(&mut tx, email).await?;
    check_own(password, &user.email, &user.name)?;
    changes::set_password(&mut tx, &user, &hash, None, app.now()).await?;
    tx.commit().await?;
    Ok(user)
}

/// Sets the role of a user, which ends their sessions. Returns false if they already
/// have it.
pub(crate) async fn set_role(app: &App, email: &str, role: Role) -> anyhow::Result<bool> {
    let now = app.now();
    let mut tx = app.db().begin().await?;
    let user = find(&mut tx, email).await?;
    let Ok(changed) = changes::set_role(&mut tx, &user, role, None, now).await? else {
        bail!("{} is the last admin: create another one first", user.email);
    };
    if changed {
        let event = changes::updated(&user, [("role", serde_json::json!(role))]);
        let known = Provenance::by_nobody(vec![user.id]);
        provenance::publish(&mut tx, event, user.id, known, now).await?;
    }
    tx.commit().await?;
    Ok(changed)
}

/// Confirms the address of an account if no mail can do it.
pub(crate) async fn confirm_email(app: &App, email: &str) -> anyhow::Result<User> {
    let mut tx = app.db().begin().await?;
    let user = find(&mut tx, email).await?;
    let address = user.email.clone();
    let user = match changes::confirm(&mut tx, user, &address, app.now()).await? {
        Ok(user) => user,
        Err(Refused::Taken | Refused::Outdated | Refused::LastAdmin) => {
            bail!("{address} cannot be confirmed")
        }
    };
    tx.commit().await?;
    Ok(user)
}

async fn find(conn: &mut Conn, email: &str) -> anyhow::Result<User> {
    accounts::find_by_email_to_change(conn, email)
        .await?
        .ok_or_else(|| {
            let text = format!(
                "no account has the address {}: `termitary user list` shows all accounts",
                escape(email)
            );
            Mistake::new(text).into()
        })
}
