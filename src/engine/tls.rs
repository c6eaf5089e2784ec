//! What both kinds of servers need of TLS: the authorities that a file names, and the sentence for
//! a handshake that failed.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{CertificateError, RootCertStore};

use super::{Error, ErrorKind, Result};

/// The certificates of a PEM file, which the URL's parameter `name` names.
///
/// # Errors
/// `Usage` for a file that cannot be read or holds no certificate of an authority.
pub(super) fn authorities(name: &str, file: &str) -> Result<(RootCertStore, Vec<CertificateDer<'static>>)> {
    let bad = |why: &dyn std::fmt::Display| {
        Error::new(ErrorKind::Usage, format!("{name}={file} in the database URL cannot be used: {why}"))
    };
    let read = CertificateDer::pem_file_iter(file).map_err(|e| bad(&e))?;
    let certificates = read.collect::<std::result::Result<Vec<_>, _>>().map_err(|e| bad(&e))?;
    if certificates.is_empty() {
        return Err(bad(&"the file holds no certificate in PEM form"));
    }
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        roots.add(certificate.clone()).map_err(|e| bad(&e))?;
    }
    Ok((roots, certificates))
}

/// Why TLS failed and what to do, when it was TLS that failed. `parameter` is the URL's for the
/// authority's certificate.
pub(super) fn fault(error: &(dyn std::error::Error + 'static), parameter: &str) -> Option<String> {
    use CertificateError as C;
    let fault = find(error)?;
    let rustls::Error::InvalidCertificate(certificate) = fault else { return Some(format!("TLS failed: {fault}")) };
    Some(match certificate {
        C::UnknownIssuer => format!(
            "its certificate is not signed by an authority that is trusted here: \
             name the authority's certificate with {parameter}=FILE"
        ),
        C::NotValidForName | C::NotValidForNameContext { .. } => format!(
            "its certificate is made out to another name ({certificate}): \
             use a name that it holds, or check the authority alone"
        ),
        C::Expired | C::ExpiredContext { .. } => {
            format!("its certificate has expired ({certificate}): renew it at the server")
        }
        C::NotValidYet | C::NotValidYetContext { .. } => {
            format!("its certificate is not valid yet ({certificate}): check the clocks of both machines")
        }
        // The library has no word of its own for it.
        C::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => format!(
            "its certificate signs itself: name it with {parameter}=FILE, \
             or where that is not enough give the server one that an authority has signed"
        ),
        other => format!("its certificate cannot be trusted: {other}"),
    })
}

/// The TLS library's own error, wherever a driver has put it.
fn find<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e rustls::Error> {
    if let Some(found) = error.downcast_ref() {
        return Some(found);
    }
    // An I/O error shows what the error inside was caused by, and not that error.
    let inside = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    if let Some(found) = inside.and_then(|inside| find(inside)) {
        return Some(found);
    }
    find(error.source()?)
}
