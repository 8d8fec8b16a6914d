//! Stands between a writer and the server, and gives the answers that networks and services give on bad days.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// What happens to a request.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// The service says that it has no time.
    Throttle,
    /// The service fails without doing it.
    Fail,
    /// It is done, and the answer is lost.
    LoseAnswer,
    /// It is done, and no answer ever comes.
    Silent,
    /// It is not done, and the connection ends.
    Refuse,
    /// The transaction is canceled, for this reason.
    Canceled(&'static str),
    /// Another attempt of the transaction is still under way.
    InProgress,
    /// Half of the keys are left unprocessed.
    Half,
    /// All of them are.
    NoKeys,
    /// It waits here until it is let go, then it is done.
    Hold,
}

#[derive(Default)]
struct Script {
    /// For the next requests of an operation.
    faults: Vec<(String, VecDeque<Fault>)>,
    /// Hold this request, counted from the start.
    hold_at: Option<usize>,
    /// From this request on every connection ends.
    cut_from: Option<usize>,
    /// Requests that came.
    seen: usize,
    /// Their operations and bodies, since somebody asked.
    sent: Vec<(String, String)>,
}

/// Whether anybody can connect.
enum Door {
    Open {
        close: Arc<Notify>,
        serving: JoinHandle<()>,
    },
    /// Nobody else gets the address meanwhile.
    Closed(TcpSocket),
}

#[derive(Clone)]
pub struct Proxy {
    pub url: String,
    to: String,
    client: reqwest::Client,
    script: Arc<Mutex<Script>>,
    door: Arc<Mutex<Option<Door>>>,
    held: Arc<Notify>,
    go: Arc<Notify>,
}

impl Proxy {
    pub async fn start(to: &str) -> Self {
        // Whoever was first did the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let this = Self {
            url: format!("http://{}", listener.local_addr().expect("is bound")),
            to: to.to_owned(),
            client: reqwest::Client::builder()
                .no_proxy()
                .build()
                .expect("builds"),
            script: Arc::default(),
            door: Arc::default(),
            held: Arc::default(),
            go: Arc::default(),
        };
        this.serve(listener);
        this
    }

    fn serve(&self, listener: TcpListener) {
        let routes = Router::new().fallback(forward).with_state(self.clone());
        let close = Arc::new(Notify::new());
        let closed = close.clone();
        let serving = axum::serve(listener, routes)
            .with_graceful_shutdown(async move { closed.notified().await });
        let serving = tokio::spawn(async move { serving.await.expect("serves") });
        let door = Door::Open { close, serving };
        *self.door.lock().expect("nobody panicked") = Some(door);
    }

    /// From now on connections are refused.
    pub async fn close(&self) {
        let door = self.door.lock().expect("nobody panicked").take();
        let Some(Door::Open { close, serving }) = door else {
            panic!("it is closed already");
        };
        close.notify_one();
        serving.await.expect("does not panic");
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("can be set");
        let address = self.url.trim_start_matches("http://");
        let bound = socket.bind(address.parse().expect("an address"));
        bound.expect("binds");
        *self.door.lock().expect("nobody panicked") = Some(Door::Closed(socket));
    }

    /// They are accepted again, at the same address.
    pub fn open(&self) {
        let door = self.door.lock().expect("nobody panicked").take();
        let Some(Door::Closed(socket)) = door else {
            panic!("it is open already");
        };
        self.serve(socket.listen(1_024).expect("listens"));
    }

    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script.lock().expect("nobody panicked")
    }

    /// The next requests of an operation meet these.
    pub fn next(&self, operation: &str, faults: impl IntoIterator<Item = Fault>) {
        let faults = faults.into_iter().collect();
        self.script().faults.push((operation.to_owned(), faults));
    }

    /// The request after so many others from now on is held.
    pub fn hold_after(&self, others: usize) {
        let mut script = self.script();
        script.hold_at = Some(script.seen + others);
    }

    /// From the request after so many others on nothing gets through.
    pub fn cut_after(&self, others: usize) {
        let mut script = self.script();
        script.cut_from = Some(script.seen + others);
    }

    pub fn mend(&self) {
        let mut script = self.script();
        (script.cut_from, script.hold_at) = (None, None);
        script.faults.clear();
    }

    /// The requests that came since this was asked the last time.
    pub fn sent(&self) -> Vec<(String, String)> {
        std::mem::take(&mut self.script().sent)
    }

    /// Returns when a request is held.
    pub async fn held(&self) {
        self.held.notified().await;
    }

    pub fn let_go(&self) {
        self.go.notify_one();
    }

    fn fault(&self, operation: &str) -> Option<Fault> {
        let mut script = self.script();
        let at = script.seen;
        script.seen += 1;
        if script.cut_from.is_some_and(|from| at >= from) {
            return Some(Fault::Refuse);
        }
        if script.hold_at == Some(at) {
            return Some(Fault::Hold);
        }
        let mut faults = script.faults.iter_mut().filter(|(of, _)| of == operation);
        faults.find_map(|(_, faults)| faults.pop_front())
    }

    async fn pass(&self, head: &axum::http::HeaderMap, body: Vec<u8>) -> Response<Body> {
        let mut request = self.client.post(&self.to).body(body);
        for (name, value) in head {
            if name != "content-length" {
                request = request.header(name, value);
            }
        }
        let answer = request.send().await.expect("the server answers");
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = answer.bytes().await.expect("the server answers");
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        for (name, value) in &headers {
            // The body may have been changed on the way.
            if !["content-length", "transfer-encoding", "x-amz-crc32"].contains(&name.as_str()) {
                response.headers_mut().insert(name, value.clone());
            }
        }
        response
    }
}

async fn forward(State(proxy): State<Proxy>, request: Request) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("is whole").to_vec();
    let target = head
        .headers
        .get("x-amz-target")
        .expect("names an operation");
    let target = target.to_str().expect("is text");
    let operation = target.rsplit('.').next().expect("is not empty").to_owned();
    let text = String::from_utf8_lossy(&body).into_owned();
    proxy.script().sent.push((operation.clone(), text));
    match proxy.fault(&operation) {
        None => proxy.pass(&head.headers, body).await,
        Some(Fault::Throttle) => error(StatusCode::BAD_REQUEST, "ThrottlingException"),
        Some(Fault::Fail) => error(StatusCode::INTERNAL_SERVER_ERROR, "InternalServerError"),
        Some(Fault::Refuse) => cut(),
        Some(Fault::Canceled(code)) => canceled(&body, code),
        Some(Fault::InProgress) => error(StatusCode::BAD_REQUEST, "TransactionInProgressException"),
        Some(Fault::Silent) => {
            proxy.pass(&head.headers, body).await;
            std::future::pending().await
        }
        Some(Fault::LoseAnswer) => {
            proxy.pass(&head.headers, body).await;
            cut()
        }
        Some(Fault::Hold) => {
            proxy.held.notify_one();
            proxy.go.notified().await;
            proxy.pass(&head.headers, body).await
        }
        Some(Fault::Half) => half(&proxy, &head.headers, &body).await,
        Some(Fault::NoKeys) => no_keys(&body),
    }
}

fn error(status: StatusCode, code: &str) -> Response<Body> {
    let of = format!("com.amazonaws.dynamodb.v20120810#{code}");
    answer(status, json!({ "__type": of, "message": "by the test" }))
}

fn canceled(body: &[u8], code: &str) -> Response<Body> {
    let asked: Value = serde_json::from_slice(body).expect("is JSON");
    let actions = asked["TransactItems"].as_array().expect("is a list").len();
    let mut reasons = vec![json!({ "Code": "None" }); actions];
    reasons[actions - 1] = json!({ "Code": code, "Message": "by the test" });
    let of = "com.amazonaws.dynamodb.v20120810#TransactionCanceledException";
    let told = json!({ "__type": of, "Message": "by the test", "CancellationReasons": reasons });
    answer(StatusCode::BAD_REQUEST, told)
}

fn no_keys(body: &[u8]) -> Response<Body> {
    let asked: Value = serde_json::from_slice(body).expect("is JSON");
    let told = json!({ "Responses": {}, "UnprocessedKeys": asked["RequestItems"] });
    answer(StatusCode::OK, told)
}

fn answer(status: StatusCode, body: Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    let text = "application/x-amz-json-1.0".parse().expect("a header");
    response.headers_mut().insert("content-type", text);
    response
}

/// An answer that breaks off.
fn cut() -> Response<Body> {
    let broken = async { Err::<String, _>(std::io::Error::other("cut by the test")) };
    let stream = futures_util::stream::once(broken);
    Response::new(Body::from_stream(stream))
}

async fn half(proxy: &Proxy, head: &axum::http::HeaderMap, body: &[u8]) -> Response<Body> {
    let mut asked: Value = serde_json::from_slice(body).expect("is JSON");
    let tables = asked["RequestItems"].as_object().expect("names tables");
    let table = tables.keys().next().expect("names one").clone();
    let mut rest = asked["RequestItems"][&table].clone();
    let keys = asked["RequestItems"][&table]["Keys"]
        .as_array_mut()
        .expect("names keys");
    let left: Vec<Value> = keys.drain(keys.len().div_ceil(2)..).collect();
    rest["Keys"] = left.into();
    let response = proxy.pass(head, asked.to_string().into_bytes()).await;
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.expect("is whole");
    let mut answer: Value = serde_json::from_slice(&body).expect("is JSON");
    if !rest["Keys"].as_array().expect("is a list").is_empty() {
        answer["UnprocessedKeys"] = json!({ table: rest });
    }
    Response::from_parts(parts, Body::from(answer.to_string()))
}
