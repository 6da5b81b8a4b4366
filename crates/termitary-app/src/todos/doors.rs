//! The functions of the todos module that other features call.

use termitary::Conn;
use uuid::Uuid;

use super::store;

/// The users who see a todo now, besides admins; none if it does not exist.
pub(crate) async fn viewers(conn: &mut Conn, todo: Uuid) -> sqlx::Result<Vec<Uuid>> {
    let todo = store::find(conn, todo, None).await?;
    Ok(todo.map(|todo| todo.viewers()).unwrap_or_default())
}

/// The present title of a todo of this service.
pub(crate) async fn title(conn: &mut Conn, todo: &str) -> sqlx::Result<Option<String>> {
    let Ok(todo) = todo.parse() else {
        return Ok(None);
    };
    Ok(store::find(conn, todo, None).await?.map(|todo| todo.title))
}
