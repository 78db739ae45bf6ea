//! `ambit pods`: who is in the mesh, and which of its connections are not protected.

use enrolment::{Client, ClientError, PodState, PodStatus};

use crate::args::{Output, Pods};

#[derive(Debug, thiserror::Error)]
pub(crate) enum PodsError {
    #[error(transparent)]
    Daemon(#[from] ClientError),
    #[error("cannot write the pods as JSON")]
    Json(#[from] serde_json::Error),
}

pub(crate) fn list(asked: &Pods) -> Result<String, PodsError> {
    let pods = Client::connect(&asked.daemon.socket)?.pods()?;
    Ok(match asked.output {
        Output::Table => table(&pods),
        Output::Json => serde_json::to_string_pretty(&pods)? + "\n",
    })
}

/// Two blanks between columns, each as wide as its widest cell; below a pod, indented, its
/// connections that are older than its enrolment.
fn table(pods: &[PodStatus]) -> String {
    let header = ["POD", "STATE", "TUNNELS", "OLDER", "ADDRESSES"].map(str::to_owned);
    let rows: Vec<[String; 5]> = pods.iter().map(row).collect();
    let width = |column: usize| {
        let cells = std::iter::once(&header)
            .chain(&rows)
            .map(|row| row[column].len());
        cells.max().unwrap_or_default()
    };
    let widths = [width(0), width(1), width(2), width(3)];
    let line = |row: &[String; 5]| {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            line += &format!("{cell:width$}  ");
        }
        line + &row[4] + "\n"
    };
    let mut text = line(&header);
    for (row, pod) in rows.iter().zip(pods) {
        text += &line(row);
        for older in &pod.connections_before_enrolment {
            text += &format!("  not protected: {} - {}\n", older.local, older.remote);
        }
        if pod.connections_not_listed > 0 {
            text += &format!("  not protected: {} more\n", pod.connections_not_listed);
        }
    }
    text
}

fn row(pod: &PodStatus) -> [String; 5] {
    let state = match pod.state {
        PodState::Enrolled => "enrolled",
        PodState::Leaving => "leaving",
    };
    let older = pod.connections_before_enrolment.len() + pod.connections_not_listed;
    let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
    [
        format!("{}/{}", pod.namespace, pod.name),
        state.to_owned(),
        pod.tunnels.to_string(),
        older.to_string(),
        addresses.join(","),
    ]
}

#[cfg(test)]
mod tests {
    use enrolment::Connection;

    use super::*;

    #[test]
    fn connections_older_than_enrolment_are_listed_below_their_pod() {
        let web = PodStatus {
            uid: "u1".to_owned(),
            namespace: "shop".to_owned(),
            name: "web".to_owned(),
            state: PodState::Enrolled,
            addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            cookie: 1,
            connections_before_enrolment: vec![Connection {
                local: "10.0.0.1:40000".parse().unwrap(),
                remote: "10.0.0.9:80".parse().unwrap(),
            }],
            connections_not_listed: 2,
            tunnels: 7,
        };
        let cart = PodStatus {
            name: "cart-long-name".to_owned(),
            state: PodState::Leaving,
            addresses: Vec::new(),
            connections_before_enrolment: Vec::new(),
            connections_not_listed: 0,
            tunnels: 0,
            ..web.clone()
        };
        let expected = "\
POD                  STATE     TUNNELS  OLDER  ADDRESSES
shop/web             enrolled  7        3      10.0.0.1,fd00::1
  not protected: 10.0.0.1:40000 - 10.0.0.9:80
  not protected: 2 more
shop/cart-long-name  leaving   0        0      \n";
        assert_eq!(table(&[web, cart]), expected);
    }
}
