//! Changes of an account that more than one module makes: each with its rows
//! and its events, in the caller's transaction.

use jiff::Timestamp;
use serde_json::json;
use termitary::{Conn, Tx};
use uuid::Uuid;

use super::links::{self, Purpose};
use super::{Role, User};
use crate::provenance::{self, Provenance};
use crate::users::events::{UserEmailChanged, UserEmailConfirmed, UserUpdated};

/// A reason why a change of an account is refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The link belongs to a change that was replaced or withdrawn.
    Outdated,
    /// The address has an account by now.
    Taken,
    /// It would leave nobody to make an admin.
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
    sqlx::query(
        "UPDATE users SET password_hash = $1, pending_email = NULL, updated_us = $2 WHERE id = $3",
    )
    .bind(hash)
    .bind(now.as_microsecond())
    .bind(user.id)
    .execute(&mut *tx)
    .await?;
    end_sessions(tx, user.id, None).await?;
    links::end(tx, Purpose::Reset, user.id).await?;
    if let Some(pending) = &user.pending_email {
        links::end_of_address(tx, Purpose::Confirm, user.id, pending).await?;
    }
    let event = UserUpdated::new(user, [("passwordChangedAt", json!(now))]);
    publish(tx, event, user.id, actor, now).await
}

/// Gives a user another role, which ends the sessions begun under the old one
/// except `keep`. `Ok(false)`: they have it already.
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
    sqlx::query("UPDATE users SET role = $1, updated_us = $2 WHERE id = $3")
        .bind(role.as_str())
        .bind(now.as_microsecond())
        .bind(user.id)
        .execute(&mut *tx)
        .await?;
    end_sessions(tx, user.id, keep).await?;
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
    let moved = sqlx::query(
        "UPDATE users SET email = $2, pending_email = NULL, confirmed_us = $3, updated_us = $3
         WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM users WHERE email = $2)",
    )
    .bind(user.id)
    .bind(email)
    .bind(now.as_microsecond())
    .execute(&mut *tx)
    .await?;
    if moved.rows_affected() == 0 {
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
    let updated = UserUpdated::new(&new, [("email", json!(new.email))]);
    publish(tx, updated, new.id, Some(new.id), now).await?;
    let changed = UserEmailChanged {
        id: new.id.to_string(),
        old_email: user.email,
        old_email_confirmed: user.email_confirmed,
        email: new.email.clone(),
    };
    publish(tx, changed, new.id, Some(new.id), now).await?;
    publish(
        tx,
        UserEmailConfirmed::from(&new),
        new.id,
        Some(new.id),
        now,
    )
    .await?;
    Ok(Ok(new))
}

/// Notes that the account's own address is confirmed, and publishes it the first time.
pub(crate) async fn mark_confirmed(
    tx: &mut Tx,
    user: &User,
    now: Timestamp,
) -> Result<(), termitary::Error> {
    let first = sqlx::query(
        "UPDATE users SET confirmed_us = $2, updated_us = $2 WHERE id = $1 AND confirmed_us IS NULL",
    )
    .bind(user.id)
    .bind(now.as_microsecond())
    .execute(&mut *tx)
    .await?;
    if first.rows_affected() == 0 {
        return Ok(());
    }
    publish(
        tx,
        UserEmailConfirmed::from(user),
        user.id,
        Some(user.id),
        now,
    )
    .await
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

/// Ends every session of a user, except one; returns how many ended.
pub(crate) async fn end_sessions(
    conn: &mut Conn,
    user: Uuid,
    except: Option<Uuid>,
) -> sqlx::Result<u64> {
    let done = sqlx::query("DELETE FROM sessions WHERE user_id = $1 AND ($2 IS NULL OR id <> $2)")
        .bind(user)
        .bind(except)
        .execute(conn)
        .await?;
    Ok(done.rows_affected())
}

/// Returns whether this user is the only admin.
pub(crate) async fn is_last_admin(conn: &mut Conn, user: &User) -> sqlx::Result<bool> {
    if user.role != Role::Admin {
        return Ok(false);
    }
    let others: i64 =
        sqlx::query_scalar("SELECT COUNT(*) FROM users WHERE role = 'admin' AND id <> $1")
            .bind(user.id)
            .fetch_one(conn)
            .await?;
    Ok(others == 0)
}
