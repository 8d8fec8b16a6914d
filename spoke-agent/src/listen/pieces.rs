//! Bodies in small pieces. A connection copies what it writes behind the headers, into memory that it keeps for the next
//! answer, and takes as much at once as it is given: so it must not be given more than a little.

use axum::body::{Bytes, HttpBody};
use futures_util::TryFutureExt;
use futures_util::future::MapOk;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::Service;
use hyper::{Request, Response};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// Bytes of a piece.
const PIECE: usize = 32 << 10;

/// The answers of a service, with their bodies in pieces.
#[derive(Clone)]
pub struct InPieces<S>(pub S);

impl<S, B> Service<Request<Incoming>> for InPieces<S>
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
{
    type Response = Response<Pieces<B>>;
    type Error = Infallible;
    type Future = MapOk<S::Future, fn(Response<B>) -> Response<Pieces<B>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let in_pieces: fn(Response<B>) -> _ = |answer| answer.map(Pieces::of);
        self.0.call(request).map_ok(in_pieces)
    }
}

/// A body of which no piece is large.
pub struct Pieces<B> {
    body: B,
    /// What came of it and was not handed on.
    rest: Bytes,
}

impl<B> Pieces<B> {
    fn of(body: B) -> Self {
        let rest = Bytes::new();
        Self { body, rest }
    }
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Pieces<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.rest.is_empty() {
            let next = ready!(Pin::new(&mut self.body).poll_frame(context));
            match next.map(|next| next.map(Frame::into_data)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
                Some(Ok(Ok(data))) => self.rest = data,
            }
        }
        let length = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(length);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (left, mut hint) = (self.rest.len() as u64, self.body.size_hint());
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + left);
        }
        hint.set_lower(hint.lower() + left);
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, Full};

    #[tokio::test]
    async fn a_body_in_pieces_is_the_same_body() {
        for length in [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 3 * PIECE + 7] {
            let all: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let mut body = Pieces::of(Full::new(Bytes::from(all.clone())));
            let mut read = Vec::new();
            while !body.is_end_stream() {
                assert_eq!(body.size_hint().exact(), Some((length - read.len()) as u64));
                let frame = body.frame().await.expect("more").expect("no error");
                let piece = frame.into_data().expect("data");
                assert!(piece.len() <= PIECE);
                read.extend(piece);
            }
            assert_eq!(read, all);
            assert!(body.frame().await.is_none());
        }
    }
}
