//! The flags that say which registry to talk to, and as whom.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use directories::ProjectDirs;
use xlreg::{ClusterKey, Dialect, Identity, Name, Registry, TokenSecret};

use crate::exit::{Code, Ending};

/// Which registry.
#[derive(Args, Clone, Debug)]
pub(crate) struct Connect {
    /// The registry's credentials: the regCred.dat that it wrote
    #[arg(long, value_name = "CRED", env = "XLREG_REGISTRY")]
    registry: PathBuf,
    #[command(flatten)]
    wire: Wire,
}

/// Which registry, unless an invitation says it or a member has kept it.
#[derive(Args, Clone, Debug)]
pub(crate) struct MaybeConnect {
    /// The registry's credentials: the regCred.dat that it wrote; not needed with an invitation,
    /// nor where a member of the cluster has joined
    #[arg(long, value_name = "CRED", env = "XLREG_REGISTRY")]
    registry: Option<PathBuf>,
    #[command(flatten)]
    wire: Wire,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Wire {
    /// Speak this dialect of the old wire [default: TLS from version 2 on, else the dialect of the
    /// version in the credentials]
    #[arg(long, env = "XLREG_DIALECT")]
    dialect: Option<DialectFlag>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DialectFlag {
    #[value(name = "1.8")]
    V1_8,
    #[value(name = "1.9")]
    V1_9,
}

impl Connect {
    /// The registry to talk to.
    pub(crate) fn registry(&self) -> anyhow::Result<Registry> {
        self.wire.open(&self.registry)
    }

    /// The credentials' file as an absolute path, for a line to copy.
    pub(crate) fn path(&self) -> PathBuf {
        std::path::absolute(&self.registry).unwrap_or_else(|_| self.registry.clone())
    }
}

impl Wire {
    pub(crate) fn open(&self, credentials: &Path) -> anyhow::Result<Registry> {
        let registry = Registry::open(credentials)?;
        Ok(match self.dialect {
            None => registry,
            Some(DialectFlag::V1_8) => registry.with_dialect(Dialect::V1_8),
            Some(DialectFlag::V1_9) => registry.with_dialect(Dialect::V1_9),
        })
    }
}

impl MaybeConnect {
    pub(crate) fn new(registry: Option<PathBuf>, wire: Wire) -> Self {
        Self { registry, wire }
    }

    /// The registry of these credentials, spoken to as was said.
    pub(crate) fn open(&self, credentials: &Path) -> anyhow::Result<Registry> {
        self.wire.open(credentials)
    }

    /// The registry that its credentials name, if there are any.
    pub(crate) fn registry(&self) -> anyhow::Result<Option<Registry>> {
        self.registry.as_ref().map(|credentials| self.wire.open(credentials)).transpose()
    }
}

/// As whom to ask about clusters, for commands that join none.
#[derive(Args, Clone, Debug)]
pub(crate) struct AsWhom {
    /// Ask as the identity in this directory [default: one of your own, made when first needed]
    #[arg(long, value_name = "DIR", env = "XLREG_IDENTITY")]
    identity: Option<PathBuf>,
}

impl AsWhom {
    /// The directory, if it was said.
    pub(crate) fn dir(&self) -> Option<&Path> {
        self.identity.as_deref()
    }

    /// That identity; made if it is the default one and missing.
    pub(crate) async fn identity(&self) -> anyhow::Result<Identity> {
        match &self.identity {
            Some(dir) => Ok(Identity::load(dir).await?),
            None => {
                let name: Name = "admin".parse().context("the default name")?;
                Ok(Identity::load_or_create(data_dir()?.join("admin"), name).await?)
            }
        }
    }
}

/// Where this user's things are kept: identities, and a registry's data.
pub(crate) fn data_dir() -> anyhow::Result<PathBuf> {
    let dirs = ProjectDirs::from("", "", "xlreg").ok_or_else(|| {
        Ending::new(
            Code::Failed,
            "cannot tell your data directory, since there is no home directory: \
             set HOME, or name a directory with --data, --identity or --key-pool",
        )
    })?;
    Ok(dirs.data_dir().to_owned())
}

/// The path in a variable that clap does not read, if there is one in it.
pub(crate) fn path_from_env(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// A duration with a unit: `500ms`, `30s`, `2m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("it would be over before it began".to_owned()),
        Ok(duration) if duration <= Duration::from_secs(366 * 24 * 3600) => Ok(duration),
        Ok(_) => Err("more than a year".to_owned()),
        Err(error) => Err(format!("{error}; write it as 500ms, 30s or 2m")),
    }
}

/// A cluster by its ID, 40 hex digits, or by its name.
pub(crate) fn cluster_key(text: &str) -> Result<ClusterKey, String> {
    if text.len() == 40
        && let Ok(id) = text.parse()
    {
        return Ok(ClusterKey::Id(id));
    }
    if TokenSecret::parse(text).is_ok() {
        let message = "this is a token's secret: give it with --token, and the cluster's name here";
        return Err(message.to_owned());
    }
    text.parse()
        .map(ClusterKey::Name)
        .map_err(|error: xlreg_core::name::NameError| error.to_string())
}

/// How a path is written in a line to copy into a shell.
pub(crate) fn shell_word(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forty_hex_digits_are_an_id_and_anything_else_a_name() {
        assert!(matches!(cluster_key(&"a5".repeat(20)), Ok(ClusterKey::Id(_))));
        assert!(matches!(cluster_key("alpha"), Ok(ClusterKey::Name(_))));
        assert!(matches!(cluster_key(&"x".repeat(40)), Ok(ClusterKey::Name(_))));
        assert!(cluster_key("no name").is_err());
    }

    #[test]
    fn a_path_survives_the_shell() {
        assert_eq!(shell_word(Path::new("/a/b.dat")), "/a/b.dat");
        assert_eq!(shell_word(Path::new("/a b")), "'/a b'");
        assert_eq!(shell_word(Path::new("it's")), r"'it'\''s'");
    }
}
