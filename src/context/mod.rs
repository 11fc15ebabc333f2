//! The context of a request, carried along with the work that it causes.

mod run_to_completion;
mod trace;

use std::net::IpAddr;

use tokio::task::futures::TaskLocalFuture;

pub use run_to_completion::run_to_completion;
pub use trace::{TraceContext, TraceId};

/// The request that is being answered, as far as log lines at any depth need it.
#[derive(Clone, Debug, Default)]
pub struct RequestContext {
    pub request_id: Option<String>,
    /// The client's address.
    pub ip: Option<IpAddr>,
    /// What the client's program calls itself, cut to a length that can be kept.
    pub user_agent: Option<String>,
    /// The trace that the request belongs to.
    pub trace_id: Option<TraceId>,
}

tokio::task_local! {
    static CURRENT: RequestContext;
}

/// Runs `work` within the context of a request.
pub fn scope<F: Future>(context: RequestContext, work: F) -> TaskLocalFuture<RequestContext, F> {
    CURRENT.scope(context, work)
}

/// The context of the running request; empty outside of one.
pub fn current() -> RequestContext {
    CURRENT.try_with(Clone::clone).unwrap_or_default()
}
