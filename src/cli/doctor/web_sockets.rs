//! MQTT over WebSockets (MQTT 5, 6; RFC 6455), as little of it as it takes to try a login: bytes in, binary frames out.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf, duplex, split};

const BUFFER_BYTES: usize = 16 * 1024;
/// No broker says so much before it says yes or no.
const MAX_HEAD_BYTES: usize = 8 * 1024;
/// Far more than an answer to a login takes.
const MAX_FRAME_BYTES: u64 = 1024 * 1024;
const FINAL_BINARY: u8 = 0x82;
const MASKED: u8 = 0x80;
const CLOSE: u8 = 8;
const DATA: [u8; 3] = [0, 1, 2];

/// Turns a connection into a stream of MQTT's bytes.
pub(super) async fn upgrade(mut tcp: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, host: &str) -> io::Result<DuplexStream> {
    let mut key = [0_u8; 16];
    getrandom::fill(&mut key)?;
    let request = format!(
        "GET /mqtt HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {}\r\n\
         Sec-WebSocket-Protocol: mqtt\r\nSec-WebSocket-Version: 13\r\n\r\n",
        STANDARD.encode(key)
    );
    tcp.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > MAX_HEAD_BYTES {
            return Err(io::Error::other("no end of the answer to the WebSocket's upgrade"));
        }
        head.push(tcp.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    if head.split_whitespace().nth(1) != Some("101") {
        let first = head.lines().next().unwrap_or_default();
        return Err(io::Error::other(format!("no WebSocket: {first}")));
    }
    let (ours, theirs) = duplex(BUFFER_BYTES);
    let ((from_us, to_us), (from_broker, to_broker)) = (split(theirs), split(tcp));
    // Each ends with the side that it reads from, or that it can no longer write to; the caller notices by its own stream.
    tokio::spawn(async move { drop(wrap(from_us, to_broker).await) });
    tokio::spawn(async move { drop(unwrap(from_broker, to_us).await) });
    Ok(ours)
}

async fn wrap(mut from: ReadHalf<DuplexStream>, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut bytes = vec![0; BUFFER_BYTES];
    loop {
        let count = from.read(&mut bytes).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        let mut mask = [0_u8; 4];
        getrandom::fill(&mut mask)?;
        let mut frame = vec![FINAL_BINARY];
        match u8::try_from(count) {
            Ok(short @ ..=125) => frame.push(MASKED | short),
            _ => {
                let length = u16::try_from(count).expect("the buffer is smaller");
                frame.push(MASKED | 126);
                frame.extend(length.to_be_bytes());
            }
        }
        frame.extend(mask);
        frame.extend(bytes[..count].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        to.write_all(&frame).await?;
    }
}

async fn unwrap(mut from: impl AsyncRead + Unpin, mut to: WriteHalf<DuplexStream>) -> io::Result<()> {
    loop {
        let (first, second) = (from.read_u8().await?, from.read_u8().await?);
        let length = match second & 0x7f {
            126 => u64::from(from.read_u16().await?),
            127 => from.read_u64().await?,
            short => u64::from(short),
        };
        if length > MAX_FRAME_BYTES {
            return Err(io::Error::other("a frame of unseemly length"));
        }
        let mut payload = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        from.read_exact(&mut payload).await?;
        match first & 0x0f {
            CLOSE => return to.shutdown().await,
            kind if DATA.contains(&kind) => to.write_all(&payload).await?,
            _ => {}
        }
    }
}
