//! Getting in and staying in.

mod confirm;
mod forgot;
mod invitation;
mod link;
pub mod login;
mod logout;
mod not_me;
mod refresh;
mod reset;
mod restore;
mod step_up;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::state::AppState;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(login::login))
        .routes(routes!(refresh::refresh))
        .routes(routes!(logout::logout))
        .routes(routes!(confirm::show, confirm::confirm))
        .routes(routes!(forgot::forgot))
        .routes(routes!(invitation::show))
        .routes(routes!(invitation::accept))
        .routes(routes!(reset::show, reset::reset))
        .routes(routes!(not_me::show, not_me::not_me))
        .routes(routes!(restore::show, restore::restore))
        .routes(routes!(step_up::step_up))
}
