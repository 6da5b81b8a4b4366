//! The bus as an argument of a handler.

use crate::broker::Bus;
use crate::handler::{Context, FromDelivery, FromRef, HandlerError};

impl<S> FromDelivery<S> for Bus
where
    Bus: FromRef<S>,
{
    fn from_delivery(context: &Context<'_, S>) -> Result<Self, HandlerError> {
        Ok(FromRef::from_ref(context.state))
    }
}
