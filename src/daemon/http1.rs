//! One request of HTTP/1 and its answer, and no more of the protocol: who scrapes needs neither bodies nor a second
//! request. By hand, because a server that can do all of it is 70 KB of program.

use std::io;
use std::time::SystemTime;

use http::header::{CONNECTION, CONTENT_LENGTH, DATE};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::base::limits::{METRICS_HEADERS_MAX, METRICS_REQUEST_BYTES_MAX};

/// Reads the head of a request, or what to answer to something else. What follows the head is not read.
///
/// # Errors
/// When the connection fails or ends before the head does.
pub(super) async fn read_head<T: AsyncRead + Unpin>(
    io: &mut T,
) -> io::Result<Result<Request<()>, StatusCode>> {
    let mut head = Vec::with_capacity(1024);
    loop {
        if head.len() >= METRICS_REQUEST_BYTES_MAX {
            return Ok(Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
        }
        let room = METRICS_REQUEST_BYTES_MAX - head.len();
        if (&mut *io).take(room as u64).read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match parse(&head) {
            Ok(None) => {}
            Ok(Some(request)) => return Ok(Ok(request)),
            Err(status) => return Ok(Err(status)),
        }
    }
}

/// The request, when its head is whole.
fn parse(head: &[u8]) -> Result<Option<Request<()>>, StatusCode> {
    let mut headers = [httparse::EMPTY_HEADER; METRICS_HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(head) {
        Ok(httparse::Status::Partial) => return Ok(None),
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        Err(_) => return Err(StatusCode::BAD_REQUEST),
    }
    let mut request =
        Request::builder().method(parsed.method.unwrap_or_default()).uri(parsed.path.unwrap_or_default());
    for header in parsed.headers.iter() {
        request = request.header(header.name, header.value);
    }
    request.body(()).map(Some).map_err(|_| StatusCode::BAD_REQUEST)
}

/// Sends the answer to a request by this method, and that it is the last.
///
/// # Errors
/// When the connection fails.
pub(super) async fn write_answer<T: AsyncWrite + Unpin>(
    io: &mut T,
    method: &Method,
    answer: &Response<String>,
) -> io::Result<()> {
    let status = answer.status();
    let mut out = Vec::with_capacity(256 + answer.body().len());
    let line = format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or_default());
    out.extend_from_slice(line.as_bytes());
    for (name, value) in answer.headers() {
        field(&mut out, name, value.as_bytes());
    }
    field(&mut out, &CONTENT_LENGTH, HeaderValue::from(answer.body().len()).as_bytes());
    field(&mut out, &CONNECTION, b"close");
    field(&mut out, &DATE, httpdate::fmt_http_date(SystemTime::now()).as_bytes());
    out.extend_from_slice(b"\r\n");
    if method != Method::HEAD {
        out.extend_from_slice(answer.body().as_bytes());
    }
    io.write_all(&out).await?;
    io.shutdown().await
}

fn field(out: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    for part in [name.as_str().as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;

    /// What is read of these pieces, which arrive one by one.
    async fn head_of(pieces: &[&[u8]]) -> io::Result<Result<Request<()>, StatusCode>> {
        let (mut ours, mut theirs) = duplex(16 * 1024);
        let write = async {
            for piece in pieces {
                ours.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            drop(ours);
        };
        tokio::join!(write, read_head(&mut theirs)).1
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_is_read_however_it_was_cut() {
        let head = b"GET /metrics?x=1 HTTP/1.1\r\nHost: x\r\nAccept: a\r\naccept: b\r\n\r\nbody";
        for step in [1, 2, 7, 1000] {
            let pieces: Vec<&[u8]> = head.chunks(step).collect();
            let request = head_of(&pieces).await.unwrap().unwrap();
            assert_eq!((request.method(), request.uri().path()), (&Method::GET, "/metrics"));
            let accepted: Vec<_> = request.headers().get_all("accept").iter().collect();
            assert_eq!(accepted, ["a", "b"]);
        }
        let absolute = head_of(&[b"GET http://pi:1/metrics HTTP/1.1\r\n\r\n"]).await.unwrap().unwrap();
        assert_eq!(absolute.uri().path(), "/metrics");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_head_is_refused_and_what_ends_early_is_an_error() {
        for bad in [
            &b"GET /metrics\r\n\r\n"[..],
            b"GET /metrics HTTP/3.0\r\n\r\n",
            b"GET /metrics HTTP/1.1\r\n: x\r\n\r\n",
            b"GET /metrics HTTP/1.1\r\nx y: z\r\n\r\n",
            b"GET /metrics HTTP/1.1\r\nx: \x00\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01",
        ] {
            assert_eq!(head_of(&[bad]).await.unwrap().unwrap_err(), StatusCode::BAD_REQUEST, "{bad:?}");
        }
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(METRICS_HEADERS_MAX + 1));
        let endless = vec![b'x'; METRICS_REQUEST_BYTES_MAX + 1];
        for large in [many.as_bytes(), &endless] {
            let status = head_of(&[large]).await.unwrap().unwrap_err();
            assert_eq!(status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        }
        for early in [&b""[..], b"GET / HTTP/1.1\r\nhost: x\r\n"] {
            let error = head_of(&[early]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{early:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_has_its_length_says_that_it_is_the_last_and_only_head_has_no_body() {
        for (method, body) in [(Method::GET, "page\n"), (Method::HEAD, "")] {
            let (mut ours, mut theirs) = duplex(4096);
            let answer = Response::new("page\n".to_owned());
            write_answer(&mut theirs, &method, &answer).await.unwrap();
            let mut text = String::new();
            ours.read_to_string(&mut text).await.unwrap();
            let (head, rest) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\ndate: "));
            assert_eq!(rest, body);
        }
    }
}
