//! A person and their own account.

mod activity;
mod change_password;
mod change_profile;
mod delete;
mod export;
mod me;
mod register;
mod sessions;
mod verify_email;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::state::AppState;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(register::register))
        .routes(routes!(
            me::show,
            me::show_by_post,
            change_profile::update,
            change_profile::patch,
            delete::delete
        ))
        .routes(routes!(activity::list))
        .routes(routes!(export::export))
        .routes(routes!(sessions::list, sessions::end_others))
        .routes(routes!(sessions::end))
        .routes(routes!(change_password::change_password))
        .routes(routes!(verify_email::verify_email))
}
