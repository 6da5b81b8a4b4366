//! What an operator does to accounts, on the command line. Nobody's password is
//! asked for: whoever can do this can write into the database.

use anyhow::{anyhow, bail};
use garde::Validate;
use uuid::Uuid;

use crate::accounts::changes::{self, Refused};
use crate::accounts::{self, Draft, Role, USER_COLUMNS, User, check_password};
use crate::app::App;
use crate::config::Mistake;
use crate::provenance::{self, Provenance};
use crate::users::events::UserUpdated;

/// What an operator makes an account from.
#[derive(Clone)]
pub struct NewUser {
    /// The address they log in with.
    pub email: String,
    /// As they want to be called.
    pub name: String,
    /// 8 to 256 characters.
    pub password: String,
    /// What they may do.
    pub role: Role,
}

/// Makes an account, as an operator does: the only way to a first admin.
pub async fn create_user(app: &App, new: NewUser) -> anyhow::Result<User> {
    // The operator vouches for the address.
    let draft = Draft::new(&new.email, &new.name, new.role).with_confirmed_email();
    draft
        .validate()
        .map_err(|report| Mistake::new(report.to_string().trim()))?;
    check(&new.password)?;
    let email = draft.email.clone();
    let hash = app.passwords().hash(&new.password).await?;
    let mut tx = app.db().begin().await?;
    let id = app.db().clock().new_id();
    let Ok(user) = accounts::create(&mut tx, draft, &hash, None, id, app.now()).await? else {
        bail!("{email} has an account already");
    };
    tx.commit().await?;
    Ok(user)
}

fn check(password: &str) -> Result<(), Mistake> {
    check_password(password, &()).map_err(|error| Mistake::new(format!("password: {error}")))
}

/// A page of users, the oldest first.
pub(crate) async fn list_users(
    app: &App,
    after: Option<Uuid>,
    limit: i64,
) -> anyhow::Result<Vec<User>> {
    let mut query = sqlx::QueryBuilder::new("SELECT ");
    query
        .push(USER_COLUMNS)
        .push(" FROM users WHERE id > ")
        .push_bind(after.unwrap_or(Uuid::nil()))
        .push(" ORDER BY id LIMIT ")
        .push_bind(limit);
    Ok(query
        .build_query_as()
        .fetch_all(&mut *app.db().read().await?)
        .await?)
}

/// Ends every session of a user; returns how many.
pub(crate) async fn end_sessions(app: &App, email: &str) -> anyhow::Result<u64> {
    let mut tx = app.db().begin().await?;
    let user = find(&mut tx, email).await?;
    let ended = changes::end_sessions(&mut tx, user.id, None).await?;
    tx.commit().await?;
    Ok(ended)
}

/// Sets a password; every session of the user ends.
pub(crate) async fn set_password(app: &App, email: &str, password: &str) -> anyhow::Result<User> {
    check(password)?;
    let hash = app.passwords().hash(password).await?;
    let mut tx = app.db().begin().await?;
    let user = find(&mut tx, email).await?;
    changes::set_password(&mut tx, &user, &hash, None, app.now()).await?;
    tx.commit().await?;
    Ok(user)
}

/// Gives a user another role; whether it is another. Their sessions end.
pub(crate) async fn set_role(app: &App, email: &str, role: Role) -> anyhow::Result<bool> {
    let now = app.now();
    let mut tx = app.db().begin().await?;
    let user = find(&mut tx, email).await?;
    let Ok(changed) = changes::set_role(&mut tx, &user, role, None, now).await? else {
        bail!("{} is the last admin: make another one first", user.email);
    };
    if changed {
        let event = UserUpdated::new(&user, [("role", serde_json::json!(role))]);
        let known = Provenance::by_nobody(vec![user.id]);
        provenance::publish(&mut tx, event, user.id, known, now).await?;
    }
    tx.commit().await?;
    Ok(changed)
}

/// Vouches for the address of an account, where no mail can prove it.
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

async fn find(conn: &mut termitary::Conn, email: &str) -> anyhow::Result<User> {
    accounts::find_by_email(conn, email).await?.ok_or_else(|| {
        anyhow!("no account has the address {email}: `termitary user list` shows all")
    })
}
