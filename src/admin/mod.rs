//! Staff who read of others, and admins who act on them: every handler here asks for a `StaffUser`
//! or an `AdminUser`.

mod act;
mod audit;
mod ban;
mod bulk;
mod edit;
mod invitations;
pub mod list;
mod mails;
mod send;
mod sessions;
mod stream;
mod users;
mod words;

use std::convert::Infallible;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::state::AppState;

pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(audit::list))
        .routes(routes!(invitations::list, invitations::invite))
        .routes(routes!(invitations::revoke))
        .routes(routes!(mails::list))
        .routes(routes!(mails::retry))
        .routes(routes!(list::list))
        .routes(routes!(users::show, users::set_role, users::delete, edit::edit))
        .routes(routes!(ban::ban, ban::unban))
        .routes(routes!(send::send))
        .routes(routes!(bulk::bulk))
        .routes(routes!(sessions::list, sessions::end_all))
        .routes(routes!(sessions::end))
}

/// The id in the path; `None` where it is no UUID, which names no row.
struct RowId(Option<Uuid>);

impl<S: Send + Sync> FromRequestParts<S> for RowId {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Infallible> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        Ok(Self(path.ok().and_then(|path| Uuid::try_parse(&path).ok())))
    }
}
