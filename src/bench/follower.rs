//! A gRPC subscriber whose reading costs as little as that of the other protocols: frames in place, 64 KiB a read. With a
//! client library the load would be slower than the server it measures, and what waits between them would be the cost.

use std::net::SocketAddr;
use std::rc::Rc;

use prost::Message as _;
use streamward::load::message::{Checker, Item};
use streamward::load::progress::Progress;
use streamward::wire::v1;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::BenchError;
use crate::http2::{LOGIN_STREAM, READ_BYTES, Reader, opening, subscribing};

/// One connection with a subscription on it.
pub(crate) struct Follower {
    io: TcpStream,
    reader: Reader,
}

/// Opens a session with one subscription that is live.
pub(crate) async fn subscriber(addr: SocketAddr, user: &str) -> Result<Follower, BenchError> {
    let mut io = TcpStream::connect(addr).await?;
    io.set_nodelay(true)?;
    let authority = addr.to_string();
    io.write_all(&opening(&authority, user)?).await?;
    let mut follower = Follower { io, reader: Reader::new() };

    let mut token = None;
    while token.is_none() {
        follower.fill().await?;
        let is_over = follower.reader.turn(LOGIN_STREAM, &mut |message| {
            token = Some(v1::LoginResponse::decode(message)?.token);
            Ok(())
        })?;
        if is_over && token.is_none() {
            return Err("the login was refused".into());
        }
        follower.answer().await?;
    }
    let token = token.unwrap_or_default();
    follower.io.write_all(&subscribing(&authority, &token)?).await?;
    let mut ready = false;
    while !ready {
        follower.fill().await?;
        follower.reader.items(&mut |item| {
            ready |= item == Item::Ready;
            Ok(())
        })?;
        follower.answer().await?;
    }
    Ok(follower)
}

/// Receives for ever; a fault ends it and is told.
pub(crate) async fn follow(
    mut follower: Follower,
    index: usize,
    payload_bytes: usize,
    progress: Rc<Progress>,
) {
    let mut checker = Checker::new(payload_bytes);
    let fault = loop {
        let read = follower.reader.items(&mut |item| match item {
            Item::Payload(payload) => Ok(checker.accept(payload)?),
            Item::Ready | Item::Ping | Item::Receipt => Ok(()),
        });
        if let Err(error) = read {
            break error;
        }
        progress.advance(index, checker.next);
        if let Err(error) = follower.answer().await {
            break error;
        }
        if let Err(error) = follower.fill().await {
            break error;
        }
    };
    progress.fail(format!("subscriber {index}: {fault}"));
}

impl Follower {
    async fn fill(&mut self) -> Result<(), BenchError> {
        self.reader.buffer.reserve(READ_BYTES);
        match self.io.read_buf(&mut self.reader.buffer).await? {
            0 => Err("the server closed the connection".into()),
            _ => Ok(()),
        }
    }

    async fn answer(&mut self) -> Result<(), BenchError> {
        if !self.reader.replies.is_empty() {
            self.io.write_all(&self.reader.replies).await?;
            self.reader.replies.clear();
        }
        Ok(())
    }
}
