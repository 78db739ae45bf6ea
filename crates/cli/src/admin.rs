//! `ambit log` and `ambit config`: one HTTP request to the daemon's admin address.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use crate::args::{Admin, Log};

#[derive(Debug, thiserror::Error)]
pub(crate) enum AdminError {
    #[error(
        "cannot reach ztunnel's admin address {address}; does it run, and is this its --admin?"
    )]
    Connect {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("the conversation with {address} broke")]
    Broken {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("{address} does not speak HTTP as ztunnel does")]
    NotHttp { address: SocketAddr },
    #[error("ztunnel refused: {0}")]
    Refused(String),
    #[error("{0:?} holds a character that no log filter has")]
    Filter(String),
}

/// Longer than the daemon takes for its largest page.
const DEADLINE: Duration = Duration::from_secs(15);

pub(crate) fn log(asked: &Log) -> Result<String, AdminError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_=,:.".contains(&byte);
    if !asked.filter.bytes().all(plain) {
        return Err(AdminError::Filter(asked.filter.clone()));
    }
    ask(
        asked.admin.address,
        "POST",
        &format!("/logging?level={}", asked.filter),
    )
}

pub(crate) fn config(asked: &Admin) -> Result<String, AdminError> {
    ask(asked.address, "GET", "/config_dump")
}

fn ask(address: SocketAddr, method: &str, target: &str) -> Result<String, AdminError> {
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE)
        .map_err(|source| AdminError::Connect { address, source })?;
    // HTTP/1.0 is answered in one piece, which the end of the connection ends.
    let request =
        format!("{method} {target} HTTP/1.0\r\nhost: {address}\r\ncontent-length: 0\r\n\r\n");
    let mut answer = String::new();
    let mut talk = || {
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        stream.write_all(request.as_bytes())?;
        stream.read_to_string(&mut answer)
    };
    talk().map_err(|source| AdminError::Broken { address, source })?;
    read(&answer).ok_or(AdminError::NotHttp { address })?
}

/// The body of a good answer, or the reason that a bad one gives.
fn read(answer: &str) -> Option<Result<String, AdminError>> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.get(2..5)?;
    Some(match status {
        "200" => Ok(body.to_owned()),
        _ => Err(AdminError::Refused(body.trim_end().to_owned())),
    })
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    #[track_caller]
    fn check(answer: &'static str, expected: Result<&str, &str>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 1024];
            let length = stream.read(&mut asked).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&asked[..length]).into_owned()
        });
        let admin = Admin { address };
        let told = log(&Log {
            filter: "info,access=debug".to_owned(),
            admin,
        });
        let told = told.map_err(|error| error.to_string());
        assert_eq!(told.as_deref().map_err(|error| &**error), expected);
        let asked = server.join().unwrap();
        assert!(
            asked.starts_with("POST /logging?level=info,access=debug HTTP/1.0\r\n"),
            "{asked}"
        );
    }

    #[test]
    fn a_good_answer_is_shown_and_a_bad_one_is_the_reason() {
        check("HTTP/1.0 200 OK\r\na: b\r\n\r\ndone\n", Ok("done\n"));
        check(
            "HTTP/1.1 400 Bad\r\n\r\nno such level\n",
            Err("ztunnel refused: no such level"),
        );
    }

    #[test]
    fn a_filter_cannot_smuggle_a_request() {
        let admin = Admin {
            address: "127.0.0.1:1".parse().unwrap(),
        };
        let refused = log(&Log {
            filter: "info HTTP/1.1\r\n".to_owned(),
            admin,
        });
        assert!(matches!(refused, Err(AdminError::Filter(_))));
    }

    #[test]
    fn what_is_not_http_is_said_to_be_so() {
        for answer in ["", "SSH-2.0\r\n", "HTTP/2\r\n\r\n", "HTTP/1.1\r\n\r\n"] {
            assert!(read(answer).is_none(), "{answer:?}");
        }
    }
}
