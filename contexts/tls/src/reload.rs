//! Something that is made from files, and made again when they change.
//!
//! The files are read every two seconds and compared by content, so that it does not matter how they are replaced: in
//! place, by a rename, through a link as Kubernetes does it. What was good last stays until all files fit together again;
//! between two writes of a pair they may not, so that is said only if it stays so, once, and again when it is over. If they
//! cannot be used at the start, whoever needs them goes without until they can: an agent must not stop answering gateways
//! because of what only the hub needs.

use crate::files::{BadFile, Content, read};
use arc_swap::ArcSwap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// What was made, and the how manieth it is.
#[derive(Debug)]
pub struct Made<T> {
    /// It; or why there is none yet.
    pub it: Result<T, BadFile>,
    /// Counts from 0.
    pub number: u64,
    /// When the first certificate of its own expires, in seconds since 1970.
    pub ends: Option<i64>,
}

/// What is known of the files, for whoever watches.
#[derive(Debug)]
pub struct Certificate {
    /// The key of the configuration that names them.
    pub name: String,
    ends: AtomicI64,
    is_stuck: AtomicBool,
}

impl Certificate {
    /// When the certificate that is in use expires, in seconds since 1970; 0 if there is none yet.
    pub fn ends(&self) -> i64 {
        self.ends.load(Ordering::Relaxed)
    }

    /// Whether the files are something that cannot be used, so that what was there before is used still, if anything was.
    pub fn is_stuck(&self) -> bool {
        self.is_stuck.load(Ordering::Relaxed)
    }
}

/// Something that is made from files. Cheap to clone; the files are no longer looked at once the last clone is gone.
pub struct Reloading<T>(Arc<Inner<T>>);

struct Inner<T> {
    made: ArcSwap<Made<T>>,
    paths: Vec<PathBuf>,
    make: Box<Make<T>>,
    certificate: Option<Arc<Certificate>>,
}

/// Makes it, and says when its certificate expires.
type Make<T> = dyn Fn(&[Content]) -> Result<(T, Option<i64>), BadFile> + Send + Sync;

impl<T> Clone for Reloading<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> std::fmt::Debug for Reloading<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Reloading").field(&self.0.paths).finish()
    }
}

impl<T: Send + Sync + 'static> Reloading<T> {
    /// Made from these files, which `name` names in the configuration. Within a runtime, which looks at them from then on,
    /// also if they cannot be used yet.
    pub(crate) fn start(
        name: &str,
        paths: Vec<PathBuf>,
        has_certificate: bool,
        make: impl Fn(&[Content]) -> Result<(T, Option<i64>), BadFile> + Send + Sync + 'static,
    ) -> Self {
        Self::looking(LOOK, name, paths, has_certificate, make)
    }

    fn looking(
        every: Duration,
        name: &str,
        paths: Vec<PathBuf>,
        has_certificate: bool,
        make: impl Fn(&[Content]) -> Result<(T, Option<i64>), BadFile> + Send + Sync + 'static,
    ) -> Self {
        let read = read_all(&paths);
        let made = read.and_then(|seen| make(&seen).map(|made| (made, seen)));
        let (it, ends, used, said) = match made {
            Ok(((it, ends), seen)) => (Ok(it), ends, seen, None),
            Err(error) => {
                tracing::error!(certificate = name, %error, "the certificate cannot be used; it is looked at again");
                (Err(error.clone()), None, Vec::new(), Some(error))
            }
        };
        let certificate = has_certificate.then(|| {
            Arc::new(Certificate {
                name: name.to_owned(),
                ends: ends.unwrap_or_default().into(),
                is_stuck: it.is_err().into(),
            })
        });
        let number = 0;
        let inner = Arc::new(Inner {
            made: ArcSwap::from_pointee(Made { it, number, ends }),
            paths,
            make: Box::new(make),
            certificate,
        });
        if !inner.paths.is_empty() {
            let weak = Arc::downgrade(&inner);
            tokio::spawn(look(every, weak, name.to_owned(), used, said));
        }
        Self(inner)
    }

    /// What was made last.
    pub fn now(&self) -> Arc<Made<T>> {
        self.0.made.load_full()
    }

    /// What is known of its certificate, if it has one.
    pub fn certificate(&self) -> Option<Arc<Certificate>> {
        self.0.certificate.clone()
    }
}

fn read_all(paths: &[PathBuf]) -> Result<Vec<Content>, BadFile> {
    paths.iter().map(|path| read(path)).collect()
}

/// Looks at the files until nobody needs them any more.
async fn look<T: Send + Sync + 'static>(
    every: Duration,
    weak: Weak<Inner<T>>,
    name: String,
    mut used: Vec<Content>,
    mut said: Option<BadFile>,
) {
    let mut bad = said.clone();
    loop {
        tokio::time::sleep(every).await;
        let Some(inner) = weak.upgrade() else { return };
        let paths = inner.paths.clone();
        let read = tokio::task::spawn_blocking(move || read_all(&paths)).await;
        let Ok(read) = read else { continue };
        let made = match read {
            Ok(seen) if seen == used => Ok(None),
            Ok(seen) => (inner.make)(&seen).map(|made| Some((made, seen))),
            Err(error) => Err(error),
        };
        match made {
            Ok(renewed) => {
                let again = said.take().is_some();
                bad = None;
                inner.stuck(false);
                if let Some((made, seen)) = renewed {
                    inner.replace(made);
                    used = seen;
                    tracing::info!(certificate = name, "the certificate was replaced");
                } else if again {
                    tracing::info!(certificate = name, "the files are as they were again");
                }
            }
            // Twice the same: that is no pair of which one was written and the other was not yet.
            Err(error) if bad.as_ref() == Some(&error) => {
                inner.stuck(true);
                if said.as_ref() != Some(&error) {
                    tracing::error!(certificate = name, %error, "the new certificate cannot be used; the last one stays");
                    said = Some(error);
                }
            }
            Err(error) => bad = Some(error),
        }
    }
}

impl<T> Inner<T> {
    fn replace(&self, (it, ends): (T, Option<i64>)) {
        let number = self.made.load().number + 1;
        let it = Ok(it);
        self.made.store(Arc::new(Made { it, number, ends }));
        if let (Some(certificate), Some(ends)) = (&self.certificate, ends) {
            certificate.ends.store(ends, Ordering::Relaxed);
        }
    }

    fn stuck(&self, is: bool) {
        if let Some(certificate) = &self.certificate {
            certificate.is_stuck.store(is, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::bad;

    const SOON: Duration = Duration::from_millis(5);

    fn number(files: &[Content]) -> Result<(u32, Option<i64>), BadFile> {
        let text = String::from_utf8_lossy(&files[0].bytes);
        let number = text.trim().parse();
        number
            .map(|n| (n, Some(i64::from(n))))
            .map_err(|_| bad(&files[0].path, "is no number"))
    }

    #[tokio::test]
    async fn what_was_good_last_stays_until_there_is_something_better() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("n");
        let write = |text: &str| std::fs::write(&path, text).expect("written");
        write("1");
        let start = || Reloading::looking(SOON, "n", vec![path.clone()], true, number);
        let it = start();
        let certificate = it.certificate().expect("it has one");
        let becomes = async |what: &dyn Fn() -> bool| {
            while !what() {
                tokio::time::sleep(SOON).await;
            }
        };
        write("two");
        becomes(&|| certificate.is_stuck()).await;
        assert_eq!((it.now().it.clone(), certificate.ends()), (Ok(1), 1));
        write("3");
        becomes(&|| it.now().it == Ok(3)).await;
        assert_eq!((certificate.ends(), it.now().number), (3, 1));
        becomes(&|| !certificate.is_stuck()).await;
        std::fs::remove_file(&path).expect("removed");
        becomes(&|| certificate.is_stuck()).await;
        assert_eq!(it.now().it, Ok(3));
        let late = start();
        assert!(late.now().it.is_err());
        write("4");
        becomes(&|| late.now().it == Ok(4) && it.now().it == Ok(4)).await;
    }
}
