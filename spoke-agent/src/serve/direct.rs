//! The whole read listener as one service: a get goes straight to its answer, everything else through the routes. To
//! find a route costs as much as to find a context. It must never answer what the routes would answer otherwise: what
//! it does not take as a get is theirs, also when it is wrong.

use super::Serve;
use super::one::{Answer, answer_get, routed};
use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request};
use axum::response::Response;
use axum::routing::future::RouteFuture;
use futures_util::TryFutureExt;
use futures_util::future::{Either, MapOk};
use hyper::body::Incoming;
use hyper::service::Service;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;

/// What answers on the read listener. Cheap to clone.
#[derive(Clone)]
pub struct Reads(Arc<Both>);

struct Both {
    serve: Serve,
    routes: Router,
}

impl Reads {
    /// Gets from here, everything by these routes.
    pub fn new(serve: Serve, routes: Router) -> Self {
        Self(Arc::new(Both { serve, routes }))
    }
}

/// Whether the routes would take it for `GET /v1/contexts/{kind}/{key}`.
fn is_get<B>(request: &Request<B>) -> bool {
    let names = request.uri().path().strip_prefix("/v1/contexts/");
    let parts = names.and_then(|names| names.split_once('/'));
    request.method() == Method::GET
        && parts.is_some_and(|(kind, key)| {
            !kind.is_empty() && !key.is_empty() && !key.as_bytes().contains(&b'/')
        })
}

impl Service<Request<Incoming>> for Reads {
    type Response = Answer;
    type Error = Infallible;
    type Future = Either<
        Ready<Result<Answer, Infallible>>,
        MapOk<RouteFuture<Infallible>, fn(Response) -> Answer>,
    >;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        if is_get(&request) {
            return Either::Left(ready(Ok(answer_get(&self.0.serve, &request))));
        }
        // A router is always ready.
        let mut routes = self.0.routes.clone();
        let answer = tower_service::Service::call(&mut routes, request.map(Body::new));
        Either::Right(answer.map_ok(routed as fn(Response) -> Answer))
    }
}

#[cfg(test)]
mod tests {
    use super::is_get;
    use axum::Router;
    use axum::body::Body;
    use axum::extract::Request;
    use axum::routing::get;
    use tower_service::Service;

    #[tokio::test]
    async fn it_takes_nothing_that_the_route_would_not_take() {
        let mut router =
            Router::<()>::new().route("/v1/contexts/{kind}/{key}", get(async || "taken"));
        let paths = [
            "/v1/contexts/a/b",
            "/v1/contexts/a/b?c=/d",
            "/v1/contexts/a%2Fb/c%2Fd",
            "/v1/contexts/%ff/%ff",
            "/v1/contexts/a/",
            "/v1/contexts//b",
            "/v1/contexts///",
            "/v1/contexts/a/b/",
            "/v1/contexts/a/b/c",
            "/v1/contexts/batch-get",
            "/v1/contexts/",
            "/v1/contexts",
            "//v1/contexts/a/b",
            "/v1/contextsx/a/b",
            "/",
        ];
        let mut taken = Vec::new();
        for method in ["GET", "HEAD", "POST", "OPTIONS"] {
            for path in paths {
                let request = || {
                    let request = Request::builder().method(method).uri(path);
                    request.body(Body::empty()).expect("a request")
                };
                let answer = router.call(request()).await.expect("an answer");
                if is_get(&request()) {
                    assert!(answer.status().is_success(), "{method} {path}");
                    taken.push((method, path));
                }
            }
        }
        assert_eq!(taken, [0, 1, 2, 3].map(|good| ("GET", paths[good])));
    }
}
