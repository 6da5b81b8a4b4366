//! Tools that the tests and benchmarks need on the machine. Missing ones are installed through
//! apt-get. No service is started or enabled.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{command, postgres};

/// A program that the tests need, and its Debian packages.
struct Tool {
    what: &'static str,
    found: fn() -> bool,
    packages: &'static [&'static str],
}

const TOOLS: &[Tool] = &[
    Tool {
        what: "a C compiler (it builds SQLite)",
        found: || command::works("cc", &["--version"]),
        packages: &["gcc", "libc6-dev"],
    },
    Tool {
        what: "redis-server (the tests start their own, on loopback)",
        found: || command::works("redis-server", &["--version"]),
        packages: &["redis-server"],
    },
    Tool {
        what: "initdb and postgres (the tests start their own servers, on loopback)",
        found: || postgres::programs().is_ok(),
        packages: &["postgresql"],
    },
    Tool {
        what: "faketime (it gives processes of the chaos harness a wrong clock)",
        found: || command::works("faketime", &["--version"]),
        packages: &["faketime"],
    },
    Tool {
        what: "python3 with venv (it runs the SMTP receiver that mail is tested against)",
        found: || command::works("python3", &["-c", "import venv, ensurepip"]),
        packages: &["python3", "python3-venv"],
    },
];

/// Tools of `cargo xtask bench`.
const BENCH_TOOLS: &[Tool] = &[
    Tool {
        what: "a C compiler (it builds SQLite)",
        found: || command::works("cc", &["--version"]),
        packages: &["gcc", "libc6-dev"],
    },
    Tool {
        what: "redis-server and redis-cli (it starts its own servers, on loopback)",
        found: || {
            command::works("redis-server", &["--version"])
                && command::works("redis-cli", &["--version"])
        },
        packages: &["redis-server", "redis-tools"],
    },
    Tool {
        what: "node and npm (BullMQ runs on them)",
        found: || command::works("node", &["--version"]) && command::works("npm", &["--version"]),
        packages: &["nodejs", "npm"],
    },
];

/// Tools of `cargo xtask bench --http`.
const HTTP_TOOLS: &[Tool] = &[
    Tool {
        what: "wrk (it sends the load)",
        found: || command::starts("wrk"),
        packages: &["wrk"],
    },
    Tool {
        what: "redis-server (each system gets its own, on loopback)",
        found: || command::works("redis-server", &["--version"]),
        packages: &["redis-server"],
    },
    Tool {
        what: "node and npm (they install bun and elysia)",
        found: || command::works("node", &["--version"]) && command::works("npm", &["--version"]),
        packages: &["nodejs", "npm"],
    },
];

/// Tools of `cargo xtask instructions`.
const INSTRUCTION_TOOLS: &[Tool] = &[Tool {
    what: "valgrind (it counts instructions)",
    found: || command::works("valgrind", &["--version"]),
    packages: &["valgrind"],
}];

/// Debian starts the services of new packages and enables them for the next boot. The tests need
/// only the program: a policy forbids the start unless the machine has a policy already, and the
/// service is disabled afterwards. PostgreSQL's service starts the clusters that exist; a setting
/// prevents that its package creates one.
const INSTALL: &str = r#"
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
clusters=/etc/postgresql-common/createcluster.d/termitary-tests.conf
ours=$clusters
trap 'rm -f $ours' EXIT
trap 'exit 1' HUP INT TERM
if [ ! -e "$policy" ]; then
    ours="$ours $policy"
    printf '#!/bin/sh\nexit 101\n' > "$policy" && chmod 755 "$policy"
fi
case " $* " in *" postgresql "*)
    mkdir -p "${clusters%/*}" && echo 'create_main_cluster = false' > "$clusters" || exit 1 ;;
esac
apt-get -o DPkg::Lock::Timeout=300 update -q || echo "apt-get update failed: continuing with the existing package lists"
apt-get -o DPkg::Lock::Timeout=300 install -q -y --no-install-recommends "$@" || exit 1
case " $* " in *" redis-server "*)
    if [ -d /run/systemd/system ]; then systemctl disable redis-server || true; fi ;;
esac
"#;

/// Installs the missing tools of the tests.
pub(crate) fn prepare() -> Result<()> {
    prepare_all(TOOLS)
}

/// Installs the missing tools of the benchmarks.
pub(crate) fn prepare_bench() -> Result<()> {
    prepare_all(BENCH_TOOLS)
}

/// Installs the missing tools of the API benchmark.
pub(crate) fn prepare_http() -> Result<()> {
    prepare_all(HTTP_TOOLS)
}

/// Installs the missing tools for counting instructions.
pub(crate) fn prepare_instructions() -> Result<()> {
    prepare_all(INSTRUCTION_TOOLS)
}

fn prepare_all(tools: &[Tool]) -> Result<()> {
    let mut packages: Vec<&str> = Vec::new();
    for tool in tools {
        let found = (tool.found)();
        println!(
            "{} {}",
            if found { "found:  " } else { "missing:" },
            tool.what
        );
        if !found {
            packages.extend(tool.packages);
        }
    }
    if packages.is_empty() {
        return Ok(());
    }
    install(&packages)?;
    let still: Vec<&str> = tools
        .iter()
        .filter(|t| !(t.found)())
        .map(|t| t.what)
        .collect();
    if !still.is_empty() {
        bail!("installed, but still missing: {}", still.join("; "));
    }
    Ok(())
}

fn install(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if !command::works("apt-get", &["--version"]) {
        bail!(
            "this machine has no apt-get. Install these Debian packages or their equivalents: {list}; then run this again"
        );
    }
    let mut command = as_root(&list)?;
    println!("installing through apt-get, without starting any service: {list}");
    let status = command
        .args(["sh", "-c", INSTALL, "install"])
        .args(packages)
        .status()
        .context("cannot run apt-get")?;
    if !status.success() {
        bail!("apt-get could not install: {list}. See its message above");
    }
    Ok(())
}

/// A command that runs its arguments as root.
fn as_root(list: &str) -> Result<Command> {
    let user = command::capture(Command::new("id").arg("-u"))?;
    if user.trim() == "0" {
        return Ok(Command::new("env"));
    }
    // -n: without a terminal, a prompt for a password would hang.
    if command::works("sudo", &["-n", "true"]) {
        let mut command = Command::new("sudo");
        command.arg("-n");
        return Ok(command);
    }
    bail!(
        "this needs root, or sudo without a password. As root, run: apt-get install {list}; then run this again \
         (or run `sudo -v` first, so that sudo does not ask)"
    )
}
