//! Routes that the OpenAPI document leaves out.

use axum::routing::{MethodRouter, Router};

use crate::state::AppState;

/// Routes, each with its path: the metrics count each path by itself, and a router does
/// not say which it has.
#[derive(Debug, Default)]
pub struct Routes {
    router: Router<AppState>,
    paths: Vec<String>,
}

impl Routes {
    #[must_use]
    pub fn route(mut self, path: &str, handler: MethodRouter<AppState>) -> Self {
        self.paths.push(path.to_owned());
        Self { router: self.router.route(path, handler), ..self }
    }

    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.paths.extend(other.paths);
        Self { router: self.router.merge(other.router), ..self }
    }

    pub fn into_parts(self) -> (Router<AppState>, Vec<String>) {
        (self.router, self.paths)
    }
}
