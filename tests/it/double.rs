//! A double of an HTTP peer: a thread that answers from a closure and remembers what it was asked.
//! It stands in where the real peer cannot be had, or does not fail when a test needs it to.
#![allow(dead_code, reason = "each test module uses some of it")]

use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long something is waited for: long enough for a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the double was asked.
#[derive(Debug, Clone)]
pub struct Request {
    /// As in the first line: `POST`.
    pub method: String,
    /// As in the first line, with its query.
    pub path: String,
    /// Names in lower case, in their order.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// A header by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| {
            panic!("{} {}: {error} in {}", self.method, self.path, self.text())
        })
    }
}

/// What the double answers.
#[derive(Debug, Clone)]
pub struct Answer {
    /// None: the connection is closed without an answer.
    status: Option<u16>,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    /// A status without a body.
    pub fn new(status: u16) -> Self {
        Self { status: Some(status), headers: Vec::new(), body: Vec::new() }
    }

    /// No answer: the connection is closed.
    pub fn hang_up() -> Self {
        Self { status: None, headers: Vec::new(), body: Vec::new() }
    }

    /// With one more header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With this body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// With this body and its content type.
    pub fn json(self, value: &Value) -> Self {
        self.header("content-type", "application/json").body(value.to_string())
    }
}

type Reply = Box<dyn Fn(&Request) -> Answer + Send + Sync>;

struct Shared {
    reply: Reply,
    asked: Mutex<Vec<Request>>,
    more: Condvar,
    over: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

/// The double. Its threads end when it is dropped.
pub struct Double {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A closure that panicked has failed its test by what it left unanswered.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Double {
    /// A double on a free port of loopback.
    pub fn new(reply: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), reply)
    }

    /// A double at this address: one that was away and comes back.
    pub fn at(
        address: SocketAddr,
        reply: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            reply: Box::new(reply),
            asked: Mutex::default(),
            more: Condvar::new(),
            over: AtomicBool::new(false),
            open: Mutex::default(),
        });
        let accepting = Some(std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || accept(&listener, &shared)
        }));
        Self { address, shared, accepting }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of a path that begins with `/`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What it was asked so far, in order.
    pub fn requests(&self) -> Vec<Request> {
        locked(&self.shared.asked).clone()
    }

    /// Waits until it was asked at least `count` times.
    pub fn wait_for(&self, count: usize) -> Vec<Request> {
        self.wait_until(&format!("{count} requests"), |asked| asked.len() >= count)
    }

    /// Waits until what it was asked satisfies `enough`.
    pub fn wait_until(&self, what: &str, enough: impl Fn(&[Request]) -> bool) -> Vec<Request> {
        let asked = locked(&self.shared.asked);
        let waited = self.shared.more.wait_timeout_while(asked, PATIENCE, |asked| !enough(asked));
        let (asked, late) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
        assert!(!late.timed_out(), "waited for {what}, and was asked: {asked:#?}");
        asked.clone()
    }

    /// Forgets what it was asked.
    pub fn forget(&self) {
        locked(&self.shared.asked).clear();
    }
}

impl Drop for Double {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        // Wakes the one who accepts.
        drop(TcpStream::connect(self.address));
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        for stream in locked(&self.shared.open).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming().flatten() {
        if shared.over.load(Ordering::SeqCst) {
            break;
        }
        // Small answers must not wait for each other.
        let _ = stream.set_nodelay(true);
        if let Ok(copy) = stream.try_clone() {
            locked(&shared.open).push(copy);
        }
        let shared = Arc::clone(shared);
        std::thread::spawn(move || {
            // A peer that went away in the middle of a request said nothing.
            let _ = converse(stream, &shared);
        });
    }
}

/// Answers one request after another on a connection.
fn converse(stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut out = stream.try_clone()?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader)? {
        locked(&shared.asked).push(request.clone());
        let answer = (shared.reply)(&request);
        let Some(status) = answer.status else {
            shared.more.notify_all();
            return out.shutdown(Shutdown::Both);
        };
        let mut head = format!("HTTP/1.1 {status} As Told\r\n");
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if status != 204 && status != 304 {
            head.push_str(&format!("content-length: {}\r\n", answer.body.len()));
        }
        head.push_str("\r\n");
        let body = if request.method == "HEAD" { &[][..] } else { &answer.body };
        let sent = out.write_all(&[head.as_bytes(), body].concat());
        shared.more.notify_all();
        sent?;
    }
    Ok(())
}

/// The next request; none when the connection is closed before it.
fn read(reader: &mut BufReader<TcpStream>) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = Vec::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_lowercase(), value.trim().to_owned()));
    }
    let mut request = Request { method, path, headers, body: Vec::new() };
    if request.header("transfer-encoding").is_some() {
        panic!("the double reads no chunked bodies");
    }
    let length = request.header("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
    request.body = vec![0; length];
    reader.read_exact(&mut request.body)?;
    Ok(Some(request))
}

#[test]
fn the_double_answers_as_told_and_remembers() {
    let double = Double::new(|request| match request.path.as_str() {
        "/gone" => Answer::hang_up(),
        _ => Answer::new(202).header("retry-after", "7").body("so"),
    });
    let client = portcullis::sink::http::Client::new(None).unwrap();
    let method = portcullis::sink::http::Method::Post;
    let call =
        |path: &str| client.call(method, &double.url(path), &[("x-one", "1")], Some(br#"{"a":2}"#));
    for _ in 0..2 {
        let answer = call("/there?q=1").unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (202, "so"));
        assert_eq!(answer.retry_after, Some(Duration::from_secs(7)));
    }
    assert!(call("/gone").is_err());
    let asked = double.wait_for(3);
    assert_eq!(asked[1].method, "POST");
    assert_eq!(asked[1].path, "/there?q=1");
    assert_eq!(asked[1].header("x-one"), Some("1"));
    assert_eq!(asked[1].json()["a"], 2);
}
