//! E-mail that follows from events: welcome, assignment, overdue reminder,
//! sign-in from a new device.

mod error;
mod mailer;

pub use error::MailError;
pub use mailer::{Mail, Mailer};
