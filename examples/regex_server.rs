//! An HTTP server that counts the matches of its clients' patterns in their texts, with the `regex` crate or with PCRE2,
//! all on one kernel thread. A search that runs away is answered with 422 when its time is up; meanwhile the other
//! requests get their turns, and their answers.
//!
//! ```sh
//! cargo run --release --example regex_server
//! ```
//!
//! It sends itself a few requests, `POST /regex` and `POST /pcre2` with the pattern as the body's first line and the text
//! below it, prints the answers in the order in which they come, and ends.

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use inger::{launch, resume};
use std::net::SocketAddr;
use std::time::Instant;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Count = fn(&str, &str) -> Result<usize, String>;

/// A search has this many turns of this length: 50 ms.
const TURNS: usize = 250;
const TURN_US: u64 = 200;
const LARGEST_BODY_BYTES: usize = 1 << 20;

/// Searches in turns with everything else on this kernel thread. None: its time is up.
async fn search(count: Count, body: String) -> Result<Option<Result<usize, String>>, inger::Error> {
    let (pattern, text) = body.split_once('\n').unwrap_or((&body, ""));
    let mut linger = launch(|| count(pattern, text), 0)?;
    for _ in 0..TURNS {
        if resume(&mut linger, TURN_US)?.is_completion() {
            return Ok(linger.completion());
        }
        tokio::task::yield_now().await;
    }
    // Leaks what it has allocated, which is the compiled pattern; the request is ours.
    // SAFETY: nobody else knows of what is on a search's stack.
    unsafe { linger.reclaim() };
    Ok(None)
}

fn with_regex(pattern: &str, text: &str) -> Result<usize, String> {
    let regex = regex::Regex::new(pattern).map_err(|error| error.to_string())?;
    Ok(regex.find_iter(text).count())
}

fn with_pcre2(pattern: &str, text: &str) -> Result<usize, String> {
    let regex = pcre2::bytes::Regex::new(pattern).map_err(|error| error.to_string())?;
    regex
        .find_iter(text.as_bytes())
        .try_fold(0, |count, found| found.map(|_| count + 1))
        .map_err(|error| error.to_string())
}

async fn answer(request: Request<Incoming>) -> Result<Response<String>, Failure> {
    let reply = |status, text: String| Ok(Response::builder().status(status).body(text)?);
    let count: Count = match (request.method(), request.uri().path()) {
        (&Method::POST, "/regex") => with_regex,
        (&Method::POST, "/pcre2") => with_pcre2,
        _ => return reply(StatusCode::NOT_FOUND, "POST to /regex or /pcre2".into()),
    };
    let Ok(body) = Limited::new(request.into_body(), LARGEST_BODY_BYTES).collect().await else {
        return reply(StatusCode::BAD_REQUEST, "no body, or one that is too large".into());
    };
    let Ok(body) = String::from_utf8(body.to_bytes().into()) else {
        return reply(StatusCode::BAD_REQUEST, "not UTF-8".into());
    };
    // A task of its own, which goes on to its end, or limit, if the client goes away.
    match tokio::spawn(search(count, body)).await? {
        Ok(Some(Ok(count))) => reply(StatusCode::OK, format!("{count} matches")),
        Ok(Some(Err(message))) => reply(StatusCode::BAD_REQUEST, message),
        Ok(None) => reply(StatusCode::UNPROCESSABLE_ENTITY, "this search takes too long".into()),
        Err(error) => reply(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

async fn serve(listener: TcpListener) -> std::io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(async {
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
            if let Err(error) = connection.await {
                eprintln!("connection: {error}");
            }
        });
    }
}

/// A client: the answer's status line and body.
async fn ask(server: SocketAddr, path: &str, pattern: &str, text: &str) -> Result<String, Failure> {
    let length = pattern.len() + 1 + text.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\nContent-Length: {length}");
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(format!("{head}\r\n\r\n{pattern}\n{text}").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    let status = head.lines().next().and_then(|line| line.split_once(' ')).ok_or("no status")?.1;
    Ok(format!("{status}: {body}"))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let server = listener.local_addr()?;
    tokio::spawn(serve(listener));
    let (address, addresses) = (r"[a-z]+@[a-z]+\.org", "ann@example.org, bob@example.org".to_owned());
    let mut answers = JoinSet::new();
    for (path, pattern, text) in [
        // A backtracking matcher reads the rest of the spaces from each of them, and backtracks as far.
        ("/pcre2", r"\s+$", " ".repeat(100_000) + "."),
        // One that does not reads the rest of the text for each of its letters.
        ("/regex", ".*[^A-Z]|[A-Z]", "A".repeat(200_000)),
        ("/pcre2", address, addresses.clone()),
        ("/regex", address, addresses),
        ("/pcre2", "(", String::new()),
    ] {
        answers.spawn(async move {
            let start = Instant::now();
            (path, pattern, ask(server, path, pattern, &text).await, start.elapsed())
        });
    }
    while let Some(answered) = answers.join_next().await {
        let (path, pattern, answer, time) = answered?;
        println!("{path} {pattern:<18}  {}, after {:.1} ms", answer?, time.as_secs_f64() * 1e3);
    }
    Ok(())
}
