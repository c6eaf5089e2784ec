//! Bodies that are compressed: gzip, which every client knows, and zstd.
//!
//! Both ways work piece by piece, so that a body is never held whole for it and one that unpacks to a thousand times its
//! size is noticed while it does.

use std::io::{self, Write as _};

/// How a body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As it is.
    Identity,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// Contents taken in before what is packed of them is handed on.
const PIECE: usize = 64 << 10;
/// Packed bytes that are unpacked at a time.
const STEP: usize = 4 << 10;
/// The largest window that is unpacked, as a power of two: what it costs in memory.
const WINDOW_LOG_MAX: u32 = 23;

impl Encoding {
    /// The one of this name in `Content-Encoding`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        match name.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Some(Self::Identity),
            "gzip" | "x-gzip" => Some(Self::Gzip),
            "zstd" => Some(Self::Zstd),
            _ => None,
        }
    }

    /// Its name there; none where nothing is packed.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Identity => None,
            Self::Gzip => Some("gzip"),
            Self::Zstd => Some("zstd"),
        }
    }

    /// The best of those that `Accept-Encoding` allows.
    #[must_use]
    pub fn accepted(header: &str) -> Self {
        let allows = |wanted: &str| {
            header.split(',').any(|entry| {
                let (name, quality) = entry.split_once(';').unwrap_or((entry, ""));
                let none =
                    quality.trim().strip_prefix("q=").and_then(|q| q.parse::<f32>().ok()).is_some_and(|q| q <= 0.0);
                name.trim().eq_ignore_ascii_case(wanted) && !none
            })
        };
        match (allows("zstd"), allows("gzip")) {
            (true, _) => Self::Zstd,
            (false, true) => Self::Gzip,
            _ => Self::Identity,
        }
    }
}

/// Packs a body.
pub enum Encoder {
    /// As it is.
    Identity,
    /// gzip, and what was taken in since something was handed on.
    Gzip(flate2::write::GzEncoder<Vec<u8>>, usize),
    /// Zstandard, likewise.
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>, usize),
}

impl Encoder {
    /// For a body.
    ///
    /// # Errors
    /// Where there is no memory for it.
    pub fn new(encoding: Encoding) -> io::Result<Self> {
        Ok(match encoding {
            Encoding::Identity => Self::Identity,
            Encoding::Gzip => Self::Gzip(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()), 0),
            Encoding::Zstd => Self::Zstd(zstd::stream::write::Encoder::new(Vec::new(), 1)?, 0),
        })
    }

    /// Takes a piece in; what is ready, which may be nothing yet.
    ///
    /// # Errors
    /// What the library says.
    pub fn push(&mut self, piece: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Identity => Ok(piece.to_vec()),
            Self::Gzip(encoder, held) => {
                encoder.write_all(piece)?;
                *held += piece.len();
                if *held >= PIECE {
                    *held = 0;
                    encoder.flush()?;
                }
                Ok(std::mem::take(encoder.get_mut()))
            }
            Self::Zstd(encoder, held) => {
                encoder.write_all(piece)?;
                *held += piece.len();
                if *held >= PIECE {
                    *held = 0;
                    encoder.flush()?;
                }
                Ok(std::mem::take(encoder.get_mut()))
            }
        }
    }

    /// The rest.
    ///
    /// # Errors
    /// What the library says.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Identity => Ok(Vec::new()),
            Self::Gzip(encoder, _) => encoder.finish(),
            Self::Zstd(encoder, _) => encoder.finish(),
        }
    }
}

/// Why a body was not unpacked.
#[derive(Debug)]
pub enum TooMuch {
    /// It has more contents than allowed.
    Contents,
    /// It is no body of this encoding.
    Damaged,
}

/// Unpacks a body, up to a bound.
pub struct Decoder {
    inner: Inner,
    contents: Vec<u8>,
    max: u64,
}

enum Inner {
    Identity,
    Gzip(Box<flate2::write::GzDecoder<Vec<u8>>>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Vec<u8>>>),
}

impl Decoder {
    /// For a body of at most `max` bytes of contents.
    ///
    /// # Errors
    /// Where there is no memory for it.
    pub fn new(encoding: Encoding, max: u64) -> io::Result<Self> {
        let inner = match encoding {
            Encoding::Identity => Inner::Identity,
            Encoding::Gzip => Inner::Gzip(Box::new(flate2::write::GzDecoder::new(Vec::new()))),
            Encoding::Zstd => {
                let mut decoder = zstd::stream::write::Decoder::new(Vec::new())?;
                decoder.window_log_max(WINDOW_LOG_MAX)?;
                Inner::Zstd(Box::new(decoder))
            }
        };
        Ok(Self { inner, contents: Vec::new(), max })
    }

    /// Takes a piece in.
    ///
    /// # Errors
    /// [`TooMuch`].
    pub fn push(&mut self, piece: &[u8]) -> Result<(), TooMuch> {
        for step in piece.chunks(STEP) {
            match &mut self.inner {
                Inner::Identity => self.contents.extend_from_slice(step),
                Inner::Gzip(decoder) => {
                    decoder.write_all(step).map_err(|_| TooMuch::Damaged)?;
                    self.contents.append(decoder.get_mut());
                }
                Inner::Zstd(decoder) => {
                    decoder.write_all(step).map_err(|_| TooMuch::Damaged)?;
                    self.contents.append(decoder.get_mut());
                }
            }
            if self.contents.len() as u64 > self.max {
                return Err(TooMuch::Contents);
            }
        }
        Ok(())
    }

    /// What was unpacked so far, for who does not wait for the end. The bound holds for what is left here.
    ///
    /// # Errors
    /// [`TooMuch`].
    pub fn take(&mut self) -> Result<Vec<u8>, TooMuch> {
        match &mut self.inner {
            Inner::Identity => {}
            Inner::Gzip(decoder) => {
                decoder.flush().map_err(|_| TooMuch::Damaged)?;
                self.contents.append(decoder.get_mut());
            }
            Inner::Zstd(decoder) => {
                decoder.flush().map_err(|_| TooMuch::Damaged)?;
                self.contents.append(decoder.get_mut());
            }
        }
        if self.contents.len() as u64 > self.max {
            Err(TooMuch::Contents)
        } else {
            Ok(std::mem::take(&mut self.contents))
        }
    }

    /// The contents.
    ///
    /// # Errors
    /// [`TooMuch`], also where the body ends too early.
    pub fn finish(mut self) -> Result<Vec<u8>, TooMuch> {
        match self.inner {
            Inner::Identity => {}
            Inner::Gzip(mut decoder) => {
                decoder.try_finish().map_err(|_| TooMuch::Damaged)?;
                self.contents.append(decoder.get_mut());
            }
            Inner::Zstd(mut decoder) => {
                decoder.flush().map_err(|_| TooMuch::Damaged)?;
                self.contents.append(decoder.get_mut());
            }
        }
        if self.contents.len() as u64 > self.max { Err(TooMuch::Contents) } else { Ok(self.contents) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(encoding: Encoding, contents: &[u8]) -> Vec<u8> {
        let mut encoder = Encoder::new(encoding).unwrap();
        let mut out = Vec::new();
        for piece in contents.chunks(10_000) {
            out.extend(encoder.push(piece).unwrap());
        }
        out.extend(encoder.finish().unwrap());
        out
    }

    fn unpacked(encoding: Encoding, bytes: &[u8], max: u64) -> Result<Vec<u8>, TooMuch> {
        let mut decoder = Decoder::new(encoding, max).unwrap();
        for piece in bytes.chunks(777) {
            decoder.push(piece)?;
        }
        decoder.finish()
    }

    #[test]
    fn bodies_come_back_and_bombs_do_not_go_off() {
        let contents: Vec<u8> = (0..300_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let zeros = vec![0; 50 << 20];
        for encoding in [Encoding::Identity, Encoding::Gzip, Encoding::Zstd] {
            let bytes = packed(encoding, &contents);
            assert_eq!(unpacked(encoding, &bytes, 1 << 30).unwrap(), contents);
            assert!(matches!(unpacked(encoding, &bytes, 100_000), Err(TooMuch::Contents)));
            if encoding == Encoding::Identity {
                continue;
            }
            assert!(matches!(unpacked(encoding, b"no such thing at all", 1000), Err(TooMuch::Damaged)));
            let bomb = packed(encoding, &zeros);
            assert!(bomb.len() < zeros.len() / 100, "{encoding:?}");
            let mut decoder = Decoder::new(encoding, 1 << 20).unwrap();
            assert!(matches!(decoder.push(&bomb), Err(TooMuch::Contents)));
            assert!(decoder.contents.capacity() < zeros.len(), "stopped on the way");
        }
    }

    #[test]
    fn what_has_come_can_be_taken_before_the_end() {
        for encoding in [Encoding::Identity, Encoding::Gzip, Encoding::Zstd] {
            let bytes = packed(encoding, b"a few words");
            let mut decoder = Decoder::new(encoding, 1000).unwrap();
            decoder.push(&bytes).unwrap();
            assert_eq!(decoder.take().unwrap(), b"a few words", "{encoding:?}");
            assert_eq!(decoder.take().unwrap(), b"");
        }
    }

    #[test]
    fn the_best_of_what_a_client_takes() {
        for (header, encoding) in [
            ("", Encoding::Identity),
            ("gzip, deflate, br, zstd", Encoding::Zstd),
            ("gzip;q=0.5", Encoding::Gzip),
            ("zstd;q=0, GZIP", Encoding::Gzip),
            ("br", Encoding::Identity),
        ] {
            assert_eq!(Encoding::accepted(header), encoding, "{header}");
        }
    }
}
