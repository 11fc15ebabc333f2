//! What can go wrong, said so that a person can act on it.

use std::path::{Path, PathBuf};
use std::{error, fmt, io};

#[derive(Debug)]
pub enum LocalPostgresError {
    /// With a folder whose programs were not run, if there is one.
    NotInstalled {
        passed_over: Option<PathBuf>,
    },
    VersionGone {
        version: String,
        data: PathBuf,
    },
    File {
        path: PathBuf,
        source: io::Error,
    },
    Initdb {
        program: PathBuf,
        output: String,
    },
    NoAnswer {
        log: PathBuf,
        last_words: String,
    },
}

/// Says at which file or program an I/O error happened.
pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> LocalPostgresError {
    move |source| LocalPostgresError::File { path: path.to_owned(), source }
}

impl fmt::Display for LocalPostgresError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotInstalled { passed_over: Some(folder) } => write!(
                f,
                "PostgreSQL's server programs in {} are passed over, as users other than root and this one may replace \
                 them: chown them, and chmod o-w them and the folders above. Or set DATABASE_URL to a PostgreSQL that \
                 is running.",
                folder.display()
            ),
            Self::NotInstalled { passed_over: None } => f.write_str(
                "PostgreSQL's server programs (initdb, postgres) were not found. Run \
                 script/bootstrap, or install them: `apt install postgresql`, `dnf install \
                 postgresql-server`, `apk add postgresql` or `brew install postgresql`. Or set \
                 DATABASE_URL to a PostgreSQL that is running.",
            ),
            Self::VersionGone { version, data } => write!(
                f,
                "{} was made by PostgreSQL {version}, which is no longer installed. Install that \
                 version, or move the folder away to begin with an empty database.",
                data.display()
            ),
            Self::File { path, source } => {
                write!(f, "the local PostgreSQL cannot use {}: {source}", path.display())
            }
            Self::Initdb { program, output } => {
                write!(f, "{} could not create a cluster: {output}", program.display())
            }
            Self::NoAnswer { log, last_words } => write!(
                f,
                "the local PostgreSQL does not answer. The end of its log, {}:\n{last_words}",
                log.display()
            ),
        }
    }
}

impl error::Error for LocalPostgresError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::File { source, .. } => Some(source),
            _ => None,
        }
    }
}
