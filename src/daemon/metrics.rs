//! The metrics page: HTTP/1 on a loopback listener of its own, for whoever scrapes. Nobody is asked who they are, so
//! it tells only what the status tells, and everything about it is bounded.

use std::io;
use std::sync::Arc;

use http::header::{ACCEPT, ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};

use crate::base::limits::{
    ACCEPT_BACKOFF, METRICS_CONNECTION_TIMEOUT, METRICS_CONNECTIONS_MAX, METRICS_HEADER_TIMEOUT,
};
use crate::daemon::http1::{read_head, write_answer};
use crate::daemon::metrics_text;
use crate::daemon::metrics_text::Format;
use crate::runtime::scope::Scope;
use crate::runtime::throttle::Throttle;
use crate::server::Core;

/// Where the page is.
pub const PATH: &str = "/metrics";

/// Serves the page until `upkeep` ends, through the drain.
pub async fn run(core: Arc<Core>, listener: TcpListener, upkeep: Scope) {
    let permits = Arc::new(Semaphore::new(METRICS_CONNECTIONS_MAX));
    let mut told = Throttle::default();
    let work = async {
        loop {
            match next(&listener, &permits).await {
                Ok((stream, permit)) => {
                    let (core, ends) = (Arc::clone(&core), upkeep.clone());
                    upkeep.spawn_boxed(async move {
                        tokio::select! {
                            () = serve(core, stream) => {}
                            () = ends.ending() => {}
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    warn(&error, &mut told, Instant::now());
                    sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    };
    tokio::select! {
        () = work => {}
        () = upkeep.ending() => {}
    }
}

/// Permit first: who comes when all are taken waits in the kernel's queue.
async fn next(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

fn warn(error: &io::Error, told: &mut Throttle, now: Instant) {
    if let Some(count) = told.count(now) {
        log::warn!(
            "cannot accept connections for the metrics: {error} ({count} such since the last warning)"
        );
    }
}

/// One request and its answer; then the connection is closed. What takes too long is cut.
pub async fn serve<T: AsyncRead + AsyncWrite + Unpin>(core: Arc<Core>, mut io: T) {
    match timeout(METRICS_CONNECTION_TIMEOUT, exchange(&core, &mut io)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => log::debug!("a connection for the metrics ended: {error}"),
        Err(_) => log::debug!("a connection for the metrics was cut after {METRICS_CONNECTION_TIMEOUT:?}"),
    }
}

async fn exchange<T: AsyncRead + AsyncWrite + Unpin>(core: &Core, io: &mut T) -> io::Result<()> {
    let head = timeout(METRICS_HEADER_TIMEOUT, read_head(io)).await??;
    let (method, response) = match head {
        Ok(request) => {
            let response = answer(core, request.method(), request.uri().path(), request.headers());
            (request.method().clone(), response)
        }
        Err(status) => (Method::GET, plain(status, "The metrics are read with GET over HTTP/1.\n")),
    };
    write_answer(io, &method, &response).await
}

fn answer(core: &Core, method: &Method, path: &str, headers: &HeaderMap) -> Response<String> {
    if path != PATH {
        return plain(StatusCode::NOT_FOUND, &format!("The metrics are at {PATH}.\n"));
    }
    if method != Method::GET {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "The metrics can only be read: GET.\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return response;
    }
    let format = format_of(headers);
    let mut response = Response::new(metrics_text::page(&core.facts(), format));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    response
}

fn plain(status: StatusCode, text: &str) -> Response<String> {
    let mut response = Response::new(text.to_owned());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// OpenMetrics when it is named and liked at least as much as plain text (RFC 9110, 12.5.1); else the older format,
/// which everything reads.
fn format_of(headers: &HeaderMap) -> Format {
    let (mut open_metrics, mut text) = (0, 0);
    let values = headers.get_all(ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    for range in values.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let media_type = parts.next().unwrap_or_default();
        let (mut quality, mut version) = (1000, "");
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            match name.trim().to_ascii_lowercase().as_str() {
                "q" => quality = quality_permille(value.trim()),
                "version" => version = value.trim().trim_matches('"'),
                _ => {}
            }
        }
        if media_type.eq_ignore_ascii_case("application/openmetrics-text") && matches!(version, "" | "1.0.0")
        {
            open_metrics = open_metrics.max(quality);
        } else if media_type.eq_ignore_ascii_case("text/plain") {
            text = text.max(quality);
        }
    }
    if open_metrics > 0 && open_metrics >= text { Format::OpenMetrics } else { Format::Text }
}

/// A `qvalue` of at most three digits after its point; nothing else counts.
fn quality_permille(text: &str) -> u32 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return 0;
    }
    let fraction: u32 = format!("{fraction:0<3}").parse().unwrap_or(0);
    match whole {
        "0" => fraction,
        "1" => 1000,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;
    use crate::base::event::Epoch;
    use crate::base::limits::{Limits, METRICS_REQUEST_BYTES_MAX, Memory, Shutdown};

    fn core() -> Arc<Core> {
        Core::new(Epoch("e".into()), Limits::default(), Memory::default(), Shutdown::default())
    }

    /// Sends this, reads to the end; returns what came and how long the server took.
    async fn exchange(request: &str, room: usize) -> (String, Duration) {
        let (mut ours, theirs) = duplex(room);
        let began_at = Instant::now();
        let client = async {
            ours.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            ours.read_to_end(&mut answer).await.unwrap();
            String::from_utf8(answer).unwrap()
        };
        let (answer, ()) = tokio::join!(client, serve(core(), theirs));
        (answer, began_at.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn the_page_is_read_with_get_and_nothing_else_is_there() {
        let (answer, _) = exchange("GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n", 65536).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{head}");
        assert!(head.contains("connection: close"), "{head}");
        assert!(body.contains("\nstreamward_connections 0\n"), "{body}");
        for (request, status) in [
            ("GET / HTTP/1.1", "404 Not Found"),
            ("GET /metrics/ HTTP/1.1", "404 Not Found"),
            ("POST /metrics HTTP/1.1", "405 Method Not Allowed"),
            ("HEAD /metrics HTTP/1.1", "405 Method Not Allowed"),
        ] {
            let (answer, _) = exchange(&format!("{request}\r\nhost: x\r\n\r\n"), 65536).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{request}: {answer}");
            assert_eq!(answer.contains("\r\nallow: GET\r\n"), status.starts_with("405"), "{answer}");
            assert!(!answer.contains("streamward_"), "{answer}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_finish_its_head_is_cut() {
        for begun in ["", "G", "GET /metrics HTTP/1.1\r\nhost: x\r\n"] {
            let (answer, took) = exchange(begun, 65536).await;
            assert_eq!((answer.contains("streamward_"), took), (false, METRICS_HEADER_TIMEOUT), "{begun:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_take_its_answer_is_cut() {
        let (mut ours, theirs) = duplex(64);
        let began_at = Instant::now();
        let client = async {
            ours.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        };
        tokio::join!(client, serve(core(), theirs));
        assert_eq!(began_at.elapsed(), METRICS_CONNECTION_TIMEOUT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_above_its_bound_is_refused() {
        let long = "x".repeat(METRICS_REQUEST_BYTES_MAX);
        let request = format!("GET /metrics HTTP/1.1\r\nhost: x\r\nx: {long}\r\n\r\n");
        let (answer, _) = exchange(&request, 65536).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }

    #[test]
    fn open_metrics_is_for_those_who_ask_for_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                          application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for (accept, expected) in [
            (&[][..], Format::Text),
            (&["*/*"], Format::Text),
            (&["text/html, */*;q=0.8"], Format::Text),
            (&["application/openmetrics-text"], Format::OpenMetrics),
            (&["Application/OpenMetrics-Text; Version=\"1.0.0\"; charset=utf-8"], Format::OpenMetrics),
            (&[prometheus], Format::OpenMetrics),
            (&["text/plain", "application/openmetrics-text"], Format::OpenMetrics),
            (&["application/openmetrics-text;q=0.2, text/plain;q=0.9"], Format::Text),
            (&["application/openmetrics-text;q=0"], Format::Text),
            (&["application/openmetrics-text;q=loud"], Format::Text),
            (&["application/openmetrics-text;version=2.0.0"], Format::Text),
        ] {
            let mut headers = HeaderMap::new();
            for value in accept {
                headers.append(ACCEPT, HeaderValue::from_static(value));
            }
            assert_eq!(format_of(&headers), expected, "{accept:?}");
        }
    }
}
