//! Server codes to kinds, in one table.

use super::super::{Error, ErrorKind};

/// What a server's error number calls for.
pub(super) fn kind_of(code: u16) -> ErrorKind {
    match code {
        1044 | 1045 | 1130 | 1142 | 1143 | 1227 | 1370 | 1410 | 1419 | 1449 | 1698 | 1820 | 1862 | 3118 | 4151 => {
            ErrorKind::Denied
        }
        1040 | 1203 | 1205 | 1213 | 1226 | 1317 | 1412 | 3572 | 1615 => ErrorKind::Busy,
        1053 | 1152 | 1154..=1161 | 1184 | 1927 | 2006 | 2013 | 4031 => ErrorKind::Unreachable,
        1022 | 1048 | 1062 | 1263 | 1169 | 1216 | 1217 | 1451 | 1452 | 1557 | 1586 | 1644 | 1761 | 1762 | 3819
        | 4025 | 1859 => ErrorKind::Constraint,
        1049 | 1051 | 1054 | 1091 | 1136 | 1146 | 1072 => ErrorKind::SchemaMismatch,
        1264 | 1265 | 1292 | 1366 | 1367 | 1406 | 1411 | 1416 | 1426 | 1300 | 1153 | 1162 | 1301 | 1118 | 1364
        | 1690 | 3140 | 3141 | 3105 | 1906 | 4038 | 1261 | 1262 | 3988 => ErrorKind::BadData,
        1021 | 1030 | 1041 | 1114 | 1037 | 1038 => ErrorKind::Full,
        1235 | 1148 | 3948 | 1193 | 1273 | 1115 | 1286 => ErrorKind::Unsupported,
        1064 | 1060 | 1305 => ErrorKind::Usage,
        1290 | 1836 | 1792 => ErrorKind::Denied,
        _ => ErrorKind::Protocol,
    }
}

/// The driver's error as ours.
pub(super) fn convert(error: mysql_async::Error) -> Error {
    use mysql_async::Error as E;
    match error {
        E::Server(e) if e.code == 1419 => Error::new(
            ErrorKind::Denied,
            "the server keeps a binary log and lets only administrators make triggers: set \
             log_bin_trust_function_creators = 1 there (error 1419)",
        ),
        E::Server(e) => {
            let advice = match e.code {
                1044 | 1142 | 1143 | 1227 | 1370 => ": grant the account this right",
                1290 | 1836 => ": the server is read-only",
                1021 | 1114 => ": free some space at the server",
                _ => "",
            };
            Error::new(kind_of(e.code), format!("the server says: {} (error {}){advice}", e.message, e.code))
        }
        E::Io(e) => Error::new(ErrorKind::Unreachable, format!("the connection to the database broke: {e}")),
        E::Driver(mysql_async::DriverError::ConnectionClosed) => {
            Error::new(ErrorKind::Unreachable, "the database closed the connection")
        }
        E::Driver(e) => Error::new(ErrorKind::Protocol, format!("the database driver failed: {e}")),
        E::Other(e) => Error::new(ErrorKind::Protocol, e.to_string()),
        E::Url(e) => Error::new(ErrorKind::Usage, e.to_string()),
    }
}
