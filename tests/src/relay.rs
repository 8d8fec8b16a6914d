//! A TCP relay: counts bytes, adds the delay of a long link, can be cut, can lose an answer or hold up a request, can have a server
//! not know a call, and can vanish like a host whose address another one takes.

use crate::Result;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// A relay to one address.
#[derive(Debug)]
pub struct Relay {
    /// Where it listens.
    pub port: u16,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    bytes: AtomicU64,
    /// Requests that are not answered yet, and the most that there ever were.
    open: AtomicUsize,
    most_open: AtomicUsize,
    delay_micros: AtomicU64,
    cut: AtomicBool,
    cutting: Notify,
    /// Connections made before the last of this many vanishings are dead, and their peers do not know.
    vanished: AtomicUsize,
    /// The answer to a request of at least so many bytes is lost; none is while this is 0.
    lose_from: AtomicUsize,
    /// A request of at least so many bytes does not arrive until this is 0.
    hold_from: AtomicUsize,
    /// The path of a call that the server is not to know.
    hidden: Mutex<Option<&'static str>>,
}

impl State {
    fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        self.cutting.notify_waiters();
    }

    fn hide(&self, path: Option<&'static str>) {
        *self.hidden.lock().unwrap_or_else(PoisonError::into_inner) = path;
    }

    /// Asks for something else, if bytes are the beginning of a hidden call.
    fn rename(&self, bytes: &mut [u8]) {
        let hidden = *self.hidden.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(path) = hidden else { return };
        let line = format!("POST {path} ");
        if bytes.starts_with(line.as_bytes()) {
            bytes[line.len() - 2] = b'_';
        }
    }

    fn set_delay(&self, delay: Duration) {
        let micros = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        self.delay_micros.store(micros, Ordering::SeqCst);
    }

    fn delay(&self) -> Duration {
        Duration::from_micros(self.delay_micros.load(Ordering::SeqCst))
    }
}

impl Relay {
    /// A relay to a port of this machine; every read of bytes is passed on `delay` later.
    ///
    /// # Errors
    /// If it cannot listen.
    pub async fn start(to: u16, delay: Duration) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(State::default());
        state.set_delay(delay);
        let shared = state.clone();
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                if !shared.cut.load(Ordering::SeqCst) {
                    tokio::spawn(relay(near, to, shared.clone()));
                }
            }
        });
        Ok(Self { port, state, task })
    }

    /// Bytes in both directions so far.
    pub fn bytes(&self) -> u64 {
        self.state.bytes.load(Ordering::SeqCst)
    }

    /// The most requests that were under way at once.
    pub fn most_at_once(&self) -> usize {
        self.state.most_open.load(Ordering::SeqCst)
    }

    /// Breaks every connection and accepts no more.
    pub fn cut(&self) {
        self.state.cut();
    }

    /// The next request of at least so many bytes arrives, and its answer does not: the relay is cut at that moment.
    pub fn lose_answer_to(&self, bytes: usize) {
        self.state.lose_from.store(bytes, Ordering::SeqCst);
    }

    /// Requests of at least so many bytes are held up until [`Relay::mend`]; smaller ones pass.
    pub fn hold(&self, bytes: usize) {
        self.state.hold_from.store(bytes, Ordering::SeqCst);
    }

    /// Until [`Relay::mend`] the server is asked for another path instead of this one, so that it answers what an older release of it
    /// does.
    pub fn hide(&self, path: &'static str) {
        self.state.hide(Some(path));
    }

    /// From now on nothing passes on the connections that there are, and nobody is told. New ones work.
    pub fn vanish(&self) {
        self.state.vanished.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether it is cut.
    pub fn is_cut(&self) -> bool {
        self.state.cut.load(Ordering::SeqCst)
    }

    /// Passes bytes on so much later from now on.
    pub fn set_delay(&self, delay: Duration) {
        self.state.set_delay(delay);
    }

    /// Accepts connections again, and lets everything pass.
    pub fn mend(&self) {
        self.state.hold_from.store(0, Ordering::SeqCst);
        self.state.hide(None);
        self.state.cut.store(false, Ordering::SeqCst);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

async fn relay(near: TcpStream, to: u16, state: Arc<State>) {
    let Ok(far) = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], to))).await else {
        return;
    };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    let cut = state.cutting.notified();
    let talk = Talk {
        state: &state,
        made: state.vanished.load(Ordering::SeqCst),
        asked: AtomicUsize::new(0),
    };
    tokio::select! {
        () = pass(near_in, far_out, &talk, true) => {}
        () = pass(far_in, near_out, &talk, false) => {}
        () = cut => {}
    }
}

/// What goes over one connection.
struct Talk<'a> {
    state: &'a State,
    /// The vanishings before it was made.
    made: usize,
    /// Bytes of the request that is not answered yet.
    asked: AtomicUsize,
}

impl Talk<'_> {
    /// Bytes of a request came: waits as long as it is held up.
    async fn asks(&self, bytes: usize) {
        let before = self.asked.fetch_add(bytes, Ordering::SeqCst);
        let asked = before + bytes;
        if before == 0 {
            let open = self.state.open.fetch_add(1, Ordering::SeqCst) + 1;
            self.state.most_open.fetch_max(open, Ordering::SeqCst);
        }
        let is_held = || {
            let least = self.state.hold_from.load(Ordering::SeqCst);
            least > 0 && asked >= least
        };
        while is_held() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// Whether it is dead.
    fn has_vanished(&self) -> bool {
        self.state.vanished.load(Ordering::SeqCst) != self.made
    }

    /// The request is answered, or never will be. Returns its bytes, none if it was answered before.
    fn ends(&self) -> usize {
        let asked = self.asked.swap(0, Ordering::SeqCst);
        if asked > 0 {
            self.state.open.fetch_sub(1, Ordering::SeqCst);
        }
        asked
    }

    /// Bytes of an answer came: whether they go on.
    fn is_heard(&self) -> bool {
        let asked = self.ends();
        let least = self.state.lose_from.load(Ordering::SeqCst);
        let is_lost = least > 0 && asked >= least;
        if is_lost {
            self.state.lose_from.store(0, Ordering::SeqCst);
            self.state.cut();
        }
        !is_lost
    }
}

impl Drop for Talk<'_> {
    fn drop(&mut self) {
        self.ends();
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    talk: &Talk<'_>,
    is_request: bool,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n) = from.read(&mut buffer).await {
        if talk.has_vanished() {
            std::future::pending::<()>().await;
        }
        if n == 0 || !(is_request || talk.is_heard()) {
            break;
        }
        if is_request {
            talk.state.rename(&mut buffer[..n]);
            talk.asks(n).await;
        }
        talk.state.bytes.fetch_add(n as u64, Ordering::SeqCst);
        let delay = talk.state.delay();
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            break;
        }
    }
}
