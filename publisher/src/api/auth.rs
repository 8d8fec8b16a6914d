//! Who calls, and what they may: every token has a name, which the audit trail shows, and a role. Tokens are compared in
//! constant time and never told.

use super::{Api, problem};
use crate::config::Role;
use crate::source::audit::Actor;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use hubcast_tls::server::Peer;
use secrecy::{ExposeSecret, SecretString};
use std::net::SocketAddr;
use std::sync::Arc;
use subtle::ConstantTimeEq;

/// The caller of one request.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// As the audit trail names it.
    pub actor: Actor,
    /// What it may do.
    pub role: Role,
}

impl Caller {
    /// Refuses a caller whose role is not enough.
    #[expect(clippy::result_large_err, reason = "a refusal is an answer")]
    pub(super) fn require(&self, role: Role) -> Result<(), Response> {
        if self.role >= role {
            return Ok(());
        }
        let (who, has) = (&self.actor.who, self.role);
        let message = format!("the token {who:?} has the role {has}; this needs {role}");
        Err(problem(StatusCode::FORBIDDEN, "forbidden", &message))
    }
}

/// Finds out who calls and refuses whom the configuration does not name, or whose role is not enough.
pub(super) async fn authorize(
    State((api, role)): State<(Arc<Api>, Role)>,
    mut request: Request,
    next: Next,
) -> Response {
    let shown = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.strip_prefix("Bearer "));
    let by_token = || known(&api, shown?);
    let by_console = || api.sessions.of(request.method(), request.headers());
    let Some(Known { name, role: has }) = by_token().or_else(by_console) else {
        return problem(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "send Authorization: Bearer <hub.api_token>, or the token of a [[hub.token]]",
        );
    };
    let origin = address(&request).map_or("the API".to_owned(), |from| {
        format!("the API, from {}", from.ip())
    });
    let caller = Caller {
        actor: Actor { who: name, origin },
        role: has,
    };
    if let Err(refusal) = caller.require(role) {
        return refusal;
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}

/// Where a request comes from, with TLS or without.
fn address(request: &Request) -> Option<SocketAddr> {
    let extensions = request.extensions();
    let plain = extensions
        .get::<ConnectInfo<SocketAddr>>()
        .map(|from| from.0);
    plain.or_else(|| {
        extensions
            .get::<ConnectInfo<Peer>>()
            .map(|from| from.0.address)
    })
}

/// Whom the configuration names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    /// The name of the token.
    pub name: String,
    /// Its role.
    pub role: Role,
}

/// Whose token this is. All are compared, whichever it is, so that the time tells nothing.
pub(crate) fn known(api: &Api, shown: &str) -> Option<Known> {
    let same = |token: &SecretString| {
        let token = token.expose_secret();
        bool::from(shown.as_bytes().ct_eq(token.as_bytes()))
    };
    let config = api.config();
    let hub = &config.hub;
    let mut found = same(&hub.api_token).then(|| Known {
        name: "api_token".to_owned(),
        role: Role::Operate,
    });
    for token in &hub.tokens {
        if same(&token.token) {
            found = Some(Known {
                name: token.name.clone(),
                role: token.role,
            });
        }
    }
    found
}
