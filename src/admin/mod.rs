//! Admins acting on others: every handler here asks for an `AdminUser`.

pub mod list;
mod sessions;
mod users;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::state::AppState;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list::list))
        .routes(routes!(users::show, users::set_role, users::delete))
        .routes(routes!(sessions::list, sessions::end_all))
        .routes(routes!(sessions::end))
}
