//! One HTTP/1.1 request from inside a namespace: for metrics, readiness and admin pages.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::namespace::Namespace;

const DEADLINE: Duration = Duration::from_secs(5);

/// The body of a page, which must answer 200.
pub fn get(namespace: &Namespace, at: SocketAddr, path: &str) -> Result<String> {
    request(namespace, at, "GET", path)
}

pub fn post(namespace: &Namespace, at: SocketAddr, path: &str) -> Result<String> {
    request(namespace, at, "POST", path)
}

fn request(namespace: &Namespace, at: SocketAddr, method: &str, path: &str) -> Result<String> {
    let answer = namespace
        .within(|| talk(at, method, path))?
        .with_context(|| format!("{method} http://{at}{path} in {}", namespace.name()))?;
    let text = String::from_utf8_lossy(&answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        bail!("{method} {path}: no HTTP answer: {text:?}");
    };
    let status = head.split(' ').nth(1).unwrap_or_default();
    ensure!(
        status == "200",
        "{method} http://{at}{path}: status {status}: {body}"
    );
    let chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    if chunked {
        unchunk(body)
    } else {
        Ok(body.to_owned())
    }
}

fn talk(at: SocketAddr, method: &str, path: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&at, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(
        format!(
            "{method} {path} HTTP/1.1\r\nhost: {at}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        )
        .as_bytes(),
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

fn unchunk(mut body: &str) -> Result<String> {
    let mut whole = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n").context("a chunk without a size")?;
        let size = usize::from_str_radix(size.trim(), 16)?;
        if size == 0 {
            return Ok(whole);
        }
        whole.push_str(rest.get(..size).context("a chunk cut short")?);
        body = rest.get(size + 2..).context("a chunk without an end")?;
    }
}
