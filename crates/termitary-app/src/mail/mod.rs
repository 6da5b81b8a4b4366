//! E-mail that follows from events: welcome, links, warnings about the account,
//! assignments, overdue reminders.
//!
//! An address that nobody confirmed gets nothing but the links that were asked
//! for there, and every address and every user has limits.
//!
//! A mail is an effect outside the database: it is sent at least once. Its
//! `Message-ID` is the delivery's idempotency key, so a second copy is known
//! as one.

mod accounts;
mod budget;
mod error;
mod folder;
mod handlers;
mod mailer;
mod post;
mod smtp;
mod store;
mod templates;

use termitary::Registry;
use termitary::Subscription;
use termitary::prelude::{secs, subscribe};

use crate::app::App;

pub use budget::Limit;
pub use error::MailError;
pub(crate) use mailer::is_address;
pub use mailer::{Mail, Mailer};

/// The module's handlers.
pub fn subscriptions() -> Registry<App> {
    Registry::new()
        .on(patient(subscribe("users.send-welcome", accounts::welcome)))
        .on(patient(subscribe(
            "users.mail-confirmation",
            accounts::confirmation,
        )))
        .on(patient(subscribe(
            "users.mail-email-requested",
            accounts::email_requested,
        )))
        .on(patient(subscribe("users.mail-reset", accounts::reset)))
        .on(patient(subscribe(
            "users.mail-password-changed",
            accounts::password_changed,
        )))
        .on(patient(subscribe(
            "users.mail-email-changed",
            accounts::email_changed,
        )))
        .on(patient(subscribe(
            "users.mail-new-device",
            handlers::new_device,
        )))
        .on(subscribe("users.forget-devices", handlers::forget_devices))
        .on(patient(subscribe(
            "todos.mail-assignment",
            handlers::assignment,
        )))
        .on(patient(subscribe(
            "todos.mail-reassignment",
            handlers::reassignment,
        )))
        .on(patient(subscribe("todos.mail-overdue", handlers::overdue)))
        .on(subscribe("mail.prune", handlers::prune))
}

/// Mail servers are slow and take few connections from one sender; an answer
/// that takes longer than a minute does not come.
fn patient(subscription: Subscription<App>) -> Subscription<App> {
    subscription.timeout(secs(60)).concurrency(8)
}
