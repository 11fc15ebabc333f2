//! Large answers go out in slices: the server copies each chunk into the connection's write buffer,
//! which never shrinks for as long as the connection lives.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};

/// Largest chunk that is handed out, in bytes.
const MAX_FRAME_BYTES: usize = 16 * 1024;

/// A body that is known to be small stays as it is: nearly all are.
pub fn small_frames(body: Body) -> Body {
    let is_small = body.size_hint().upper().is_some_and(|size| size <= MAX_FRAME_BYTES as u64);
    if is_small { body } else { Body::new(SmallFrames { body, rest: Bytes::new() }) }
}

struct SmallFrames {
    body: Body,
    /// The rest of the current frame.
    rest: Bytes,
}

impl SmallFrames {
    fn next_frame(&mut self) -> Frame<Bytes> {
        Frame::data(self.rest.split_to(self.rest.len().min(MAX_FRAME_BYTES)))
    }
}

impl HttpBody for SmallFrames {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)).transpose()? {
                Some(frame) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                None => return Poll::Ready(None),
            }
        }
        Poll::Ready(Some(Ok(self.next_frame())))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (of_body, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(of_body.lower() + rest);
        if let Some(upper) = of_body.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::http::{HeaderMap, HeaderValue};
    use futures_util::{StreamExt, stream};
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    /// Bytes that tell where they stand.
    fn bytes(length: usize) -> Bytes {
        (0..length).map(|at| u8::try_from(at % 251).expect("less than 256")).collect()
    }

    /// What a frame carries, of a body that is to go on.
    async fn data(body: &mut Body) -> Bytes {
        body.frame().await.expect("a frame").expect("no error").into_data().expect("data")
    }

    #[tokio::test]
    async fn the_slices_of_a_body_are_the_body() {
        for length in [MAX_FRAME_BYTES + 1, 2 * MAX_FRAME_BYTES, 5 * MAX_FRAME_BYTES - 1] {
            let whole = bytes(length);
            let mut body = small_frames(whole.clone().into());
            let mut joined = Vec::new();
            while joined.len() < length {
                assert_eq!(body.size_hint().exact(), Some((length - joined.len()) as u64));
                assert!(!body.is_end_stream());
                let slice = data(&mut body).await;
                assert!(
                    slice.len() == MAX_FRAME_BYTES.min(length - joined.len()),
                    "{}",
                    slice.len()
                );
                // A part of the whole, and no copy.
                assert_eq!(slice.as_ptr(), whole[joined.len()..].as_ptr());
                joined.extend_from_slice(&slice);
            }
            assert_eq!(joined, whole);
            // Known with the last slice: the server writes that and the end in one.
            assert!(body.is_end_stream());
            assert_eq!(body.size_hint().exact(), Some(0));
            assert!(body.frame().await.is_none());
        }
    }

    #[tokio::test]
    async fn a_small_body_is_left_alone() {
        for length in [0, 1, MAX_FRAME_BYTES] {
            let body = small_frames(bytes(length).into());
            assert_eq!(body.size_hint().exact(), Some(length as u64));
            assert_eq!(body.is_end_stream(), length == 0);
            let whole = body.collect().await.expect("no error").to_bytes();
            assert_eq!(whole, bytes(length));
        }
    }

    #[tokio::test]
    async fn a_stream_of_unknown_length_is_sliced_frame_by_frame_up_to_its_error() {
        let batches = [
            Ok(bytes(3)),
            Ok(bytes(MAX_FRAME_BYTES + 5)),
            Ok(Bytes::new()),
            Err("broken"),
            Ok(bytes(1)),
        ];
        let mut body = small_frames(Body::from_stream(stream::iter(batches)));
        assert_eq!((body.size_hint().lower(), body.size_hint().upper()), (0, None));
        for length in [3, MAX_FRAME_BYTES, 5, 0] {
            assert_eq!(data(&mut body).await.len(), length);
            assert!(!body.is_end_stream());
        }
        let broken = body.frame().await.expect("a frame").expect_err("an error");
        assert_eq!(broken.to_string(), "broken");
    }

    #[tokio::test]
    async fn trailers_come_after_the_last_slice() {
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("1"));
        let frames = [Frame::data(bytes(MAX_FRAME_BYTES + 1)), Frame::trailers(trailers.clone())];
        let frames = stream::iter(frames).map(Ok::<_, Infallible>);
        let mut body = small_frames(Body::new(StreamBody::new(frames)));
        for length in [MAX_FRAME_BYTES, 1] {
            assert_eq!(data(&mut body).await.len(), length);
        }
        let last = body.frame().await.expect("a frame").expect("no error");
        assert_eq!(last.into_trailers().expect("trailers"), trailers);
        assert!(body.frame().await.is_none());
    }
}
