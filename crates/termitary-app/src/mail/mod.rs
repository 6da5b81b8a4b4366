//! Mail that follows from events: welcome, links, warnings about the account,
//! assignments, overdue reminders.
//!
//! An unconfirmed address gets only the links that were requested for it, and every
//! address and every user has limits.
//!
//! A mail is an effect outside the database, so it is sent at least once. Its
//! `Message-ID` is the delivery's idempotency key, so receivers recognize a copy.

mod account_mail;
mod handlers;
mod limits;
mod send;
mod store;
mod templates;

use termitary::Registry;
use termitary::Subscription;
use termitary::prelude::{secs, subscribe};

use crate::app::App;
use crate::mailer;

/// The module's handlers.
pub fn subscriptions() -> Registry<App> {
    Registry::new()
        .on(slow(subscribe("users.send-welcome", account_mail::welcome)))
        .on(slow(subscribe(
            "users.mail-confirmation",
            account_mail::confirmation,
        )))
        .on(slow(subscribe(
            "users.mail-email-requested",
            account_mail::email_requested,
        )))
        .on(slow(subscribe("users.mail-reset", account_mail::reset)))
        .on(slow(subscribe(
            "users.mail-password-changed",
            account_mail::password_changed,
        )))
        .on(slow(subscribe(
            "users.mail-email-changed",
            account_mail::email_changed,
        )))
        .on(slow(subscribe(
            "users.mail-new-device",
            handlers::new_device,
        )))
        .on(subscribe("users.forget-devices", handlers::forget_devices))
        .on(slow(subscribe(
            "todos.mail-assignment",
            handlers::assignment,
        )))
        .on(slow(subscribe(
            "todos.mail-reassignment",
            handlers::reassignment,
        )))
        .on(slow(subscribe("todos.mail-overdue", handlers::overdue)))
        .on(subscribe("mail.prune", handlers::delete_old))
}

/// The policy of mail: servers are slow and accept few connections from one sender. The attempt
/// outlasts the mailer, which knows whether the server may have accepted the mail.
fn slow(subscription: Subscription<App>) -> Subscription<App> {
    subscription
        .timeout(mailer::LONGEST + secs(40))
        .concurrency(8)
}
