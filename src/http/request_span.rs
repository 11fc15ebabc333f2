//! The span of a request, which does nothing without the feature `otlp`.

#[cfg(feature = "otlp")]
pub use traced::RequestSpan;
#[cfg(not(feature = "otlp"))]
pub use untraced::RequestSpan;

#[cfg(not(feature = "otlp"))]
mod untraced {
    use std::convert::Infallible;

    use crate::context::{TraceContext, TraceId};

    pub struct RequestSpan(Infallible);

    impl RequestSpan {
        pub fn begin(_: &str, _: Option<&str>, _: Option<TraceContext>) -> Option<Self> {
            None
        }

        pub fn trace_id(&self) -> TraceId {
            match self.0 {}
        }

        pub fn answered(self, _: u16, _: Option<&str>) {
            match self.0 {}
        }
    }
}

#[cfg(feature = "otlp")]
mod traced {
    use std::borrow::Cow;

    use opentelemetry::trace::{
        Span, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceState,
        Tracer,
    };
    use opentelemetry::{Context, KeyValue};

    use crate::context::{TraceContext, TraceId};
    use crate::telemetry::otlp;

    /// The span of a request being answered. It ends when this is dropped, so that an abandoned
    /// request has an end too.
    pub struct RequestSpan(opentelemetry_sdk::trace::Span);

    impl RequestSpan {
        /// A child of the caller's span, if there is one; `None` where traces are not set.
        pub fn begin(
            method: &'static str,
            route: Option<&str>,
            caller: Option<TraceContext>,
        ) -> Option<Self> {
            let tracer = otlp::tracer()?;
            let parent = caller.map_or_else(Context::new, |caller| {
                let flags =
                    if caller.is_sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
                let trace_id = opentelemetry::trace::TraceId::from(caller.trace_id.0);
                let span_id = SpanId::from(caller.parent_id);
                let remote = SpanContext::new(trace_id, span_id, flags, true, TraceState::NONE);
                Context::new().with_remote_span_context(remote)
            });
            // OpenTelemetry's conventions for HTTP: a name of few values, with the pattern and
            // never the path.
            let name: Cow<'static, str> =
                route.map_or(method.into(), |route| format!("{method} {route}").into());
            let mut attributes = vec![KeyValue::new("http.request.method", method)];
            attributes.extend(route.map(|route| KeyValue::new("http.route", route.to_owned())));
            let span = tracer.span_builder(name).with_kind(SpanKind::Server);
            Some(Self(span.with_attributes(attributes).start_with_context(tracer, &parent)))
        }

        /// The caller's, or a new one.
        pub fn trace_id(&self) -> TraceId {
            TraceId(u128::from_be_bytes(self.0.span_context().trace_id().to_bytes()))
        }

        pub fn answered(mut self, status: u16, code: Option<&'static str>) {
            self.0.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
            if let Some(code) = code {
                self.0.set_attribute(KeyValue::new("error.type", code));
            }
            if status >= 500 {
                self.0.set_status(Status::error(""));
            }
        }
    }
}
