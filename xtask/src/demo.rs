//! `cargo xtask demo`: a mesh on this machine, the scenario on it, and a table of what was seen.

use anyhow::{Context, Result, ensure};
use harness::mesh::ports;
use harness::{Mesh, MeshOptions, Replica};
use netns::Row;

use crate::interrupt::Interrupt;
use crate::{privilege, run, setup};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Leave the mesh up to play with, until Ctrl-C
    #[arg(long)]
    keep: bool,
    #[arg(long, value_enum, default_value = "release")]
    profile: run::Profile,
    /// Break the promise of one check, to see that check fail
    #[arg(long = "break", hide = true, value_parser = clap::value_parser!(u8).range(1..=11))]
    sabotage: Option<u8>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    privilege::ensure()?;
    setup::ensure(setup::Need::Ebpf)?;
    setup::ensure(setup::Need::Mesh)?;
    let binaries = run::build_mesh(arguments.profile)?;
    let interrupt = Interrupt::catch()?;
    println!("==> two nodes, a controller and ten pods");
    let mut mesh = Mesh::start(MeshOptions::new("demo", binaries))?;
    let rows = netns::run_all(&mut mesh, arguments.sabotage, |row| {
        println!(
            "    {:>2}. {:<45} {:>5.1} s",
            row.number, row.title, row.seconds
        );
    });
    print_table(&rows);
    let failed: Vec<&Row> = rows.iter().filter(|row| row.outcome.is_err()).collect();
    if !failed.is_empty() {
        let logs = mesh.keep_logs().context("keep the daemons' logs")?;
        println!("\nThe daemons' logs are in {}", logs.display());
    }
    if arguments.keep {
        explain(&mesh);
        interrupt.wait();
    }
    drop(mesh);
    let named: Vec<String> = failed
        .iter()
        .map(|row| format!("{} ({})", row.number, row.title))
        .collect();
    ensure!(named.is_empty(), "does not hold: {}", named.join(", "));
    Ok(())
}

fn print_table(rows: &[Row]) {
    println!("\n{:>3}  {:<42} {:<7} what was seen", "", "check", "");
    for row in rows {
        let (verdict, seen) = match &row.outcome {
            Ok(seen) => ("ok", seen.clone()),
            Err(error) => ("FAILED", format!("{error:#}")),
        };
        println!("{:>3}. {:<42} {verdict:<7} {seen}", row.number, row.title);
    }
}

/// How to use a mesh that is left up.
fn explain(mesh: &Mesh) {
    let pod = |name: &str| {
        format!(
            "nsenter --net={}",
            mesh.pod(name).net.namespace.path().display()
        )
    };
    let node = |replica: Replica| {
        format!(
            "nsenter --net={}",
            mesh.node(replica).host.namespace.path().display()
        )
    };
    let fabric = mesh.fabric().path();
    println!("\nThe mesh is up. In another terminal:");
    println!(
        "  call a service from a pod (a new process is captured like the pod's own only in its cgroup):"
    );
    println!(
        "    sh -c 'echo $$ > {}/cgroup.procs; exec {} curl -s http://{}/'",
        mesh.pod("web").net.cgroup.display(),
        pod("web"),
        mesh.cart(8000)
    );
    println!("  the same from a pod outside the mesh, by a pod's address:");
    println!(
        "    {} curl -s http://{}/",
        pod("old-client"),
        mesh.address_of("cart-b", ports::HTTP)
    );
    println!("  watch the wire:");
    println!("    nsenter --net={} tcpdump -ni br0 tcp", fabric.display());
    println!("  metrics and all that a node knows:");
    println!(
        "    {} curl -s http://127.0.0.1:15020/metrics",
        node(Replica::A)
    );
    println!(
        "    {} curl -s http://127.0.0.1:15000/config_dump",
        node(Replica::A)
    );
    println!("  the access logs:");
    println!("    tail -f {}", mesh.log_of("a").display());
    println!("  change a policy, and see it act:");
    println!(
        "    edit the manifests in {}",
        mesh.manifests.folder().display()
    );
    println!("  list the enrolled pods:");
    println!(
        "    {} pods --socket {}",
        mesh.options.binaries.cli().display(),
        mesh.enrol_socket(Replica::A).display()
    );
    println!("Ctrl-C takes it all down.");
}
