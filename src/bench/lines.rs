//! The load on an MQTT or NATS server: plain TCP connections.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::BenchError;
use crate::{mqtt, nats};
use streamward::load::message::{Checker, Item, Template};
use streamward::load::progress::Progress;

const READ_BYTES: usize = 64 * 1024;

/// Which protocol is spoken.
#[derive(Clone, Copy)]
pub(crate) enum Dialect {
    /// MQTT 3.1.1, QoS 0.
    Mqtt,
    /// The NATS text protocol.
    Nats,
}

/// One connection, and what arrived on it that is not parsed yet.
pub(crate) struct Line {
    dialect: Dialect,
    read: OwnedReadHalf,
    /// `None` once the publisher has taken it.
    write: Option<OwnedWriteHalf>,
    buffer: BytesMut,
}

/// Opens a connection that is subscribed.
pub(crate) async fn subscriber(dialect: Dialect, addr: SocketAddr, name: &str) -> Result<Line, BenchError> {
    let opening = match dialect {
        Dialect::Mqtt => mqtt::subscriber_opening(name)?,
        Dialect::Nats => nats::subscriber_opening(),
    };
    open(dialect, addr, &opening).await
}

/// Opens a connection to publish on: the part to write to, and the rest, which must be followed.
pub(crate) async fn publisher(
    dialect: Dialect,
    addr: SocketAddr,
    name: &str,
) -> Result<(OwnedWriteHalf, Line), BenchError> {
    let opening = match dialect {
        Dialect::Mqtt => mqtt::publisher_opening(name)?,
        Dialect::Nats => nats::publisher_opening(),
    };
    let mut line = open(dialect, addr, &opening).await?;
    let write = line.write.take().ok_or("the connection has lost its writing half")?;
    Ok((write, line))
}

/// The encoded publish.
pub(crate) fn template(dialect: Dialect, payload_bytes: usize) -> Result<Template, BenchError> {
    match dialect {
        Dialect::Mqtt => Ok(Template::new(mqtt::publish(payload_bytes)?, payload_bytes, 0)?),
        Dialect::Nats => {
            Ok(Template::new(nats::publish(payload_bytes), payload_bytes, nats::AFTER_PAYLOAD_BYTES)?)
        }
    }
}

/// Receives for ever; a fault ends it and is told.
pub(crate) async fn follow(mut line: Line, index: usize, payload_bytes: usize, progress: Rc<Progress>) {
    let mut checker = Checker::new(payload_bytes);
    let fault = loop {
        let mut pings = false;
        let parsed = parse(&mut line, &mut |item| match item {
            Item::Payload(payload) => Ok(checker.accept(payload)?),
            Item::Ping => {
                pings = true;
                Ok(())
            }
            Item::Ready | Item::Receipt => Ok(()),
        });
        if let Err(error) = parsed {
            break error;
        }
        progress.advance(index, checker.next);
        if let Err(error) = answer(&mut line, pings).await {
            break error;
        }
        if let Err(error) = fill(&mut line).await {
            break error;
        }
    };
    progress.fail(format!("subscriber {index}: {fault}"));
}

/// Keeps the connection, unread bytes thrown away, until `leave` is done.
pub(crate) async fn hold(mut line: Line, leave: impl Future<Output = ()>) -> Result<(), BenchError> {
    let mut leave = pin!(leave);
    loop {
        tokio::select! {
            () = &mut leave => return Ok(()),
            filled = fill(&mut line) => filled?,
        }
        line.buffer.clear();
    }
}

/// Reads what the server says to the publisher, which delivers nothing.
pub(crate) async fn follow_publisher(mut line: Line, progress: Rc<Progress>) {
    let fault = loop {
        if let Err(error) = parse(&mut line, &mut |_| Ok(())) {
            break error;
        }
        if let Err(error) = fill(&mut line).await {
            break error;
        }
    };
    progress.fail(format!("publisher: {fault}"));
}

async fn open(dialect: Dialect, addr: SocketAddr, opening: &[u8]) -> Result<Line, BenchError> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    write.write_all(opening).await?;
    let mut line = Line { dialect, read, write: Some(write), buffer: BytesMut::with_capacity(READ_BYTES) };
    let mut ready = false;
    while !ready {
        fill(&mut line).await?;
        parse(&mut line, &mut |item| {
            ready |= item == Item::Ready;
            Ok(())
        })?;
    }
    Ok(line)
}

async fn fill(line: &mut Line) -> Result<(), BenchError> {
    line.buffer.reserve(READ_BYTES);
    match line.read.read_buf(&mut line.buffer).await? {
        0 => Err("the server closed the connection".into()),
        _ => Ok(()),
    }
}

fn parse(
    line: &mut Line,
    sink: &mut impl FnMut(Item<'_>) -> Result<(), BenchError>,
) -> Result<(), BenchError> {
    let used = match line.dialect {
        Dialect::Mqtt => mqtt::parse(&line.buffer, sink)?,
        Dialect::Nats => nats::parse(&line.buffer, sink)?,
    };
    line.buffer.advance(used);
    Ok(())
}

async fn answer(line: &mut Line, ping: bool) -> Result<(), BenchError> {
    if let (true, Some(write)) = (ping, line.write.as_mut()) {
        write.write_all(nats::PONG).await?;
    }
    Ok(())
}
