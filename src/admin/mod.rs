//! Staff who read of others, and admins who act on them: every handler here asks for a `StaffUser`
//! or an `AdminUser`.

mod act;
mod ban;
mod bulk;
mod edit;
pub mod list;
mod send;
mod users;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::state::AppState;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(list::list))
        .routes(routes!(users::show, users::set_role, users::delete, edit::edit))
        .routes(routes!(ban::ban, ban::unban))
        .routes(routes!(send::send))
        .routes(routes!(bulk::bulk))
}
