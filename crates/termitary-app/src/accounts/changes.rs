//! Changes of an account that more than one module makes: each with its rows
//! and its events, in the caller's transaction.

use jiff::Timestamp;
use serde_json::{Value, json};
use termitary::{Conn, Tx};
use uuid::Uuid;

use super::links::{self, Purpose};
use super::{Role, User, Which, sessions, store};
use crate::provenance::{self, Provenance};
use crate::sql::take_turn;
use crate::users::events::{UserEmailChanged, UserEmailConfirmed, UserUpdated};

/// A reason why a change of an account is refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The link belongs to a change that was replaced or withdrawn.
    Outdated,
    /// The address has an account by now.
    Taken,
    /// The last admin would lose the role.
    LastAdmin,
}

/// Stores a new password, ends every session and every reset link, and withdraws a
/// pending change of address, which a thief of the old password may have requested.
/// `actor` is the user who set it, or `None` for an operator.
pub(crate) async fn set_password(
    tx: &mut Tx,
    user: &User,
    hash: &str,
    actor: Option<Uuid>,
    now: Timestamp,
) -> Result<(), termitary::Error> {
    store::set_password(tx, user.id, hash, now).await?;
    sessions::end(tx, user.id, Which::All).await?;
    links::end(tx, Purpose::Reset, user.id).await?;
    if let Some(pending) = &user.pending_email {
        links::end_of_address(tx, Purpose::Confirm, user.id, pending).await?;
    }
    let event = updated(user, [("passwordChangedAt", json!(now))]);
    publish(tx, event, user.id, actor, now).await
}

/// Gives a user another role, which ends the sessions begun under the old one
/// except `keep`. Returns `Ok(false)` if they already have it.
pub(crate) async fn set_role(
    tx: &mut Tx,
    user: &User,
    role: Role,
    keep: Option<Uuid>,
    now: Timestamp,
) -> Result<Result<bool, Refused>, termitary::Error> {
    if user.role == role {
        return Ok(Ok(false));
    }
    if is_last_admin(tx, user).await? {
        return Ok(Err(Refused::LastAdmin));
    }
    store::set_role(tx, user.id, role, now).await?;
    let which = keep.map_or(Which::All, Which::AllBut);
    sessions::end(tx, user.id, which).await?;
    Ok(Ok(true))
}

/// Confirms `email` after its link was followed. A pending address replaces the
/// account's present one.
pub(crate) async fn confirm(
    tx: &mut Tx,
    user: User,
    email: &str,
    now: Timestamp,
) -> Result<Result<User, Refused>, termitary::Error> {
    if user.email == email {
        mark_confirmed(tx, &user, now).await?;
        links::end_of_address(tx, Purpose::Confirm, user.id, email).await?;
        let user = User {
            email_confirmed: true,
            ..user
        };
        return Ok(Ok(user));
    }
    if user.pending_email.as_deref() != Some(email) {
        return Ok(Err(Refused::Outdated));
    }
    if !store::set_email(tx, user.id, email, now).await? {
        return Ok(Err(Refused::Taken));
    }
    links::end(tx, Purpose::Confirm, user.id).await?;
    // They were sent to the address that the user has left.
    links::end(tx, Purpose::Reset, user.id).await?;
    let new = User {
        email: email.to_owned(),
        pending_email: None,
        email_confirmed: true,
        updated_at: now,
        ..user.clone()
    };
    let event = updated(&new, [("email", json!(new.email))]);
    publish(tx, event, new.id, Some(new.id), now).await?;
    let changed = UserEmailChanged {
        id: new.id.to_string(),
        old_email: user.email,
        old_email_confirmed: user.email_confirmed,
        email: new.email.clone(),
    };
    publish(tx, changed, new.id, Some(new.id), now).await?;
    publish(tx, confirmed(&new), new.id, Some(new.id), now).await?;
    Ok(Ok(new))
}

/// Marks the account's own address as confirmed, and publishes that the first time.
pub(crate) async fn mark_confirmed(
    tx: &mut Tx,
    user: &User,
    now: Timestamp,
) -> Result<(), termitary::Error> {
    if !store::set_confirmed(tx, user.id, now).await? {
        return Ok(());
    }
    publish(tx, confirmed(user), user.id, Some(user.id), now).await
}

async fn publish<E: termitary::Event>(
    tx: &mut Tx,
    event: E,
    user: Uuid,
    actor: Option<Uuid>,
    now: Timestamp,
) -> Result<(), termitary::Error> {
    let known = Provenance {
        actor,
        viewers: vec![user],
    };
    provenance::publish(tx, event, user, known, now).await
}

/// Returns true if this user is the only admin, which no other transaction changes before
/// this one ends.
pub(crate) async fn is_last_admin(conn: &mut Conn, user: &User) -> sqlx::Result<bool> {
    if user.role != Role::Admin {
        return Ok(false);
    }
    take_turn(conn, "admins").await?;
    Ok(!store::has_other_admin(conn, user.id).await?)
}

/// The event of changed fields.
pub(crate) fn updated<'a>(
    user: &User,
    changes: impl IntoIterator<Item = (&'a str, Value)>,
) -> UserUpdated {
    UserUpdated {
        id: user.id.to_string(),
        email: user.email.clone(),
        changes: changes
            .into_iter()
            .map(|(field, value)| (field.to_owned(), value))
            .collect(),
    }
}

fn confirmed(user: &User) -> UserEmailConfirmed {
    UserEmailConfirmed {
        id: user.id.to_string(),
        email: user.email.clone(),
    }
}
