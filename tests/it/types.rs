//! Every type of every engine, to every other engine and back: what is called exact arrives and
//! returns the same, what does not fit is rejected by name, and `docs/types.md` says so.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use rowferry::engine::{OpenOptions, open};
use rowferry::model::TableName;

use crate::support::Engine::{Mariadb, Mysql, Postgres, Sqlite};
use crate::support::{Engine, TestDb, rowferry, rowferry_in, rows};

/// A value in its engine's SQL, and the engines that cannot hold it: there its row is rejected.
type Literal = (&'static str, &'static [Engine]);

struct Case {
    /// The type in its engine's SQL.
    native: &'static str,
    values: &'static [Literal],
    /// Targets where values may come back changed, which the plan declares.
    loss: &'static [Engine],
    /// The value `v` as text, where the usual form is not the same in equal columns of other types.
    text: &'static str,
    /// The first value as every engine's own SQL shows it, wherever it has arrived.
    at: Option<(Kind, &'static str)>,
}

const fn case(native: &'static str, values: &'static [Literal]) -> Case {
    Case { native, values, loss: &[], text: "", at: None }
}

/// What a value is to the SQL of every engine.
#[derive(Clone, Copy)]
enum Kind {
    Bool,
    Number,
    Text,
    Bytes,
    Bits,
    Day,
    Clock,
    Naive,
    Instant,
    Uuid,
    Json,
}

impl Kind {
    /// The value `v` of this kind as text, by what the engine itself knows of such values.
    fn shown(self, by: Engine) -> &'static str {
        match (self, by) {
            (Self::Bool, Postgres) => "v::boolean::int",
            (Self::Bool, _) => "v",
            (Self::Number, Postgres) => "v::text",
            (Self::Number, Sqlite) => "CAST(v AS TEXT)",
            (Self::Number, _) => "CAST(v AS CHAR)",
            (Self::Text, Postgres) => "upper(encode(convert_to(v, 'UTF8'), 'hex'))",
            (Self::Text, Sqlite) => "hex(v)",
            (Self::Text, _) => "HEX(CONVERT(v USING utf8mb4))",
            (Self::Bytes, Postgres) => "upper(encode(v, 'hex'))",
            (Self::Bytes, _) => "hex(v)",
            (Self::Bits, Postgres) => "ltrim(v::text, '0')",
            (Self::Bits, Sqlite) => "ltrim(v, '0')",
            (Self::Bits, _) => "BIN(v)",
            (Self::Day, Postgres) => "to_char(v, 'YYYY-MM-DD')",
            (Self::Day, Sqlite) => "date(v)",
            (Self::Day, _) => "DATE_FORMAT(v, '%Y-%m-%d')",
            (Self::Clock, Postgres) => "to_char(v, 'HH24:MI:SS')",
            (Self::Clock, Sqlite) => "time(v)",
            (Self::Clock, _) => "TIME_FORMAT(v, '%H:%i:%s')",
            (Self::Naive, Postgres) => "to_char(v, 'YYYY-MM-DD HH24:MI:SS.US')",
            (Self::Naive, Sqlite) => "datetime(v) || substr(v, 20, 7)",
            (Self::Naive, _) => "DATE_FORMAT(v, '%Y-%m-%d %H:%i:%s.%f')",
            (Self::Instant, Postgres) => "to_char(v AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')",
            (Self::Instant, Sqlite) => "datetime(v) || substr(v, 20, 7)",
            (Self::Instant, _) => "DATE_FORMAT(CONVERT_TZ(v, @@session.time_zone, '+00:00'), '%Y-%m-%d %H:%i:%s.%f')",
            (Self::Uuid, Postgres) => "v::uuid::text",
            (Self::Uuid, _) => "lower(v)",
            (Self::Json, Postgres) => "v::jsonb ->> 'b'",
            (Self::Json, Sqlite) => "v ->> '$.b'",
            (Self::Json, _) => "JSON_UNQUOTE(JSON_EXTRACT(v, '$.b'))",
        }
    }
}

impl Case {
    const fn loss(self, at: &'static [Engine]) -> Self {
        Self { loss: at, ..self }
    }
    const fn text(self, text: &'static str) -> Self {
        Self { text, ..self }
    }
    const fn at(self, kind: Kind, shown: &'static str) -> Self {
        Self { at: Some((kind, shown)), ..self }
    }
}

const OK: &[Engine] = &[];
/// Both of that family.
const MY: &[Engine] = &[Mariadb, Mysql];
const PG: &[Engine] = &[Postgres];
const NOT_MY: &[Engine] = &[Sqlite, Postgres];
const NOT_PG: &[Engine] = &[Sqlite, Mariadb, Mysql];
const NOT_LITE: &[Engine] = &[Mariadb, Mysql, Postgres];

const POSTGRES: &[Case] = &[
    case("boolean", &[("true", OK), ("false", OK)]).at(Kind::Bool, "1"),
    case("smallint", &[("-32768", OK), ("32767", OK)]),
    case("integer", &[("-2147483648", OK), ("2147483647", OK), ("0", OK)]),
    case("bigint", &[("-9223372036854775808", OK), ("9223372036854775807", OK), ("9007199254740993", OK)]),
    case(
        "real",
        &[
            ("0.1", OK),
            ("16777216", OK),
            ("3.4028235e38", OK),
            ("1.1754944e-38", OK),
            ("'-0'", &[Sqlite, Mariadb]),
            ("'NaN'", NOT_PG),
            ("'Infinity'", MY),
            ("'-Infinity'", MY),
        ],
    ),
    case(
        "double precision",
        &[
            ("0.1", OK),
            ("1.7976931348623157e308", OK),
            ("2.2250738585072014e-308", OK),
            ("9007199254740993", OK),
            ("'-0'", &[Sqlite, Mariadb]),
            ("'NaN'", NOT_PG),
            ("'Infinity'", MY),
            ("'-Infinity'", MY),
        ],
    ),
    case(
        "numeric",
        &[
            ("1.50", OK),
            ("0", OK),
            ("-0.000001", OK),
            ("12345678901234567890123456789012345.123456789012345678901234567891", OK),
            ("0.0000000000000000000000000000001", MY),
            ("1e100", MY),
            ("'NaN'", MY),
            ("'Infinity'", MY),
            ("'-Infinity'", MY),
        ],
    )
    .text("trim_scale(v)::text"),
    case("numeric(12,2)", &[("9999999999.99", OK), ("-0.01", OK), ("1.5", OK), ("'NaN'", MY)])
        .at(Kind::Number, "9999999999.99"),
    case("numeric(38,10)", &[("9999999999999999999999999999.9999999999", OK), ("-0.0000000001", OK), ("'NaN'", MY)]),
    case("numeric(100,50)", &[("1e49", OK), ("-1e-50", OK), ("'NaN'", OK)]).text("v::numeric(100,50)::text"),
    case("numeric(5,-2)", &[("9999900", OK), ("-100", OK)]).text("trim_scale(v)::text"),
    case(
        "text",
        &[
            ("''", OK),
            ("'trailing  '", OK),
            ("E'tab\\tline\\nback\\\\slash''quote\"\\x01'", OK),
            ("'é 日本 🦀'", OK),
            ("'007'", OK),
            ("repeat('x', 70000)", OK),
        ],
    ),
    case("character varying(10)", &[("''", OK), ("'a '", OK), ("repeat('🦀', 10)", OK)]),
    case("character varying(20000)", &[("repeat('é', 20000)", OK)]),
    case("character(5)", &[("'ab'", OK), ("''", OK), ("'abcde'", OK), ("'éé'", OK)]),
    case("bytea", &[(r"'\x00ff2700'", OK), ("''", OK), (r"'\x00'", OK), ("'text'", OK)]).at(Kind::Bytes, "00FF2700"),
    case(
        "date",
        &[
            ("'2024-02-29'", OK),
            ("'0001-01-01'", OK),
            ("'9999-12-31'", OK),
            ("'4713-01-01 BC'", MY),
            ("'5874897-12-31'", MY),
            ("'infinity'", NOT_PG),
            ("'-infinity'", NOT_PG),
        ],
    )
    .at(Kind::Day, "2024-02-29"),
    case("time", &[("'23:59:59.999999'", OK), ("'00:00:00'", OK), ("'24:00:00'", OK)]).at(Kind::Clock, "23:59:59"),
    case("time(0)", &[("'12:34:56'", OK)]),
    case("time with time zone", &[("'12:34:56.789+05:30'", OK), ("'00:00:00-15:59'", OK)]).text("v::timetz::text"),
    case(
        "timestamp",
        &[
            ("'2024-02-29 12:34:56.123456'", OK),
            ("'0001-01-01 00:00:00'", OK),
            ("'9999-12-31 23:59:59.999999'", OK),
            ("'1969-12-31 23:59:59.999999'", OK),
            ("'4713-01-01 00:00:00 BC'", MY),
            ("'10000-01-01 00:00:00'", MY),
            ("'infinity'", NOT_PG),
            ("'-infinity'", NOT_PG),
        ],
    )
    .at(Kind::Naive, "2024-02-29 12:34:56.123456"),
    case("timestamp(3)", &[("'2024-02-29 12:34:56.123'", OK)]),
    case(
        "timestamp with time zone",
        &[
            ("'2024-03-31 02:30:00.000001+01'", OK),
            ("'2038-01-19 03:14:07.999999+00'", OK),
            ("'1970-01-01 00:00:01+00'", OK),
            ("'1970-01-01 00:00:00+00'", MY),
            ("'2038-01-19 03:14:08+00'", MY),
            ("'4713-01-01 00:00:00+00 BC'", MY),
            ("'infinity'", NOT_PG),
        ],
    )
    .at(Kind::Instant, "2024-03-31 01:30:00.000001"),
    case(
        "interval",
        &[
            ("'1 year 2 mons 3 days 04:05:06.789'", OK),
            ("'-1 days +02:00'", OK),
            ("'0'", OK),
            ("'178000000 years'", OK),
        ],
    )
    .text("v::interval::text"),
    case("uuid", &[("'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", OK), ("'ffffffff-ffff-0fff-ffff-ffffffffffff'", OK)])
        .text("v::text")
        .at(Kind::Uuid, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    case("json", &[(r#"'{"b": 1,  "a":2, "a":3}'"#, OK), ("'12345678901234567890.5'", OK), ("'null'", OK)])
        .loss(&[Mysql])
        .at(Kind::Json, "1"),
    case("jsonb", &[(r#"'{"b": 1, "a": [true, null, "é"]}'"#, OK), ("'1.10'", OK), ("'12345678901234567890123'", OK)])
        .loss(&[Mysql]),
    case("bit(1)", &[("B'1'", OK), ("B'0'", OK)]),
    case("bit(64)", &[("repeat('1', 64)::bit(64)", OK), ("B'1'::bit(64)", OK)]),
    case("bit(70)", &[("repeat('01', 35)::bit(70)", OK)]),
    case("bit varying(8)", &[("B''", OK), ("B'0'", OK), ("B'01010101'", OK)]),
    case("bit varying", &[("B''", OK), ("repeat('01', 100)::varbit", OK)]),
    case("mood", &[("'sad'", OK), ("'very happy'", OK), ("'it''s'", OK)]),
    case("integer[]", &[("'{1,2,NULL}'", OK), ("'{}'", OK), ("'[0:1]={1,2}'", OK)]),
    case("text[]", &[(r#"'{"a b","",NULL,"NULL","q\"q"}'"#, OK)]),
    case("inet", &[("'192.168.0.1/24'", OK), ("'::1'", OK)]),
    case("cidr", &[("'10.0.0.0/8'", OK)]),
    case("macaddr", &[("'08:00:2b:01:02:03'", OK)]),
    case("money", &[("'-12.34'", OK)]),
    case("xml", &[("'<a b=\"c\"> d </a>'", OK)]),
    case("tsvector", &[("'a fat cat'", OK)]),
    case("point", &[("'(1.5,-2)'", OK)]),
    case("line", &[("'{1,-2.5,3}'", OK)]),
    case("lseg", &[("'[(1,2),(3,4.5)]'", OK)]),
    case("box", &[("'(3,4),(1,2)'", OK)]),
    case("path", &[("'[(0,0),(1,1)]'", OK), ("'((0,0),(1,1),(2,0))'", OK)]),
    case("polygon", &[("'((0,0),(1,0),(1,1))'", OK)]),
    case("circle", &[("'<(1,2),3.5>'", OK)]),
    case("int4range", &[("'[1,5)'", OK), ("'empty'", OK)]),
    case("int8range", &[("'[1,9223372036854775807)'", OK)]),
    case("numrange", &[("'(,1.50]'", OK)]),
    case("daterange", &[("'[2024-02-29,infinity)'", OK)]),
    case("tsrange", &[("'[\"2024-02-29 12:34:56.123456\",)'", OK)]),
    case("tstzrange", &[("'[\"2024-02-29 12:34:56.123456+02\",)'", OK)]),
    case("int4multirange", &[("'{[1,5),[7,9)}'", OK)]),
    case("int8multirange", &[("'{[1,5),[7,9223372036854775807)}'", OK)]),
    case("nummultirange", &[("'{(,1.50],[2,2.0]}'", OK), ("'{}'", OK)]),
    case("datemultirange", &[("'{[2024-02-29,2024-03-02),[2025-01-01,infinity)}'", OK)]),
    case("tsmultirange", &[("'{[\"2024-02-29 12:34:56.123456\",\"2024-03-01 00:00:00\")}'", OK)]),
    case("tstzmultirange", &[("'{[2024-02-29 12:00+02,2024-03-01 00:00+02)}'", OK)]),
    case("interval day to second(3)", &[("'1 day 02:03:04.567'", OK)]).text("v::interval::text"),
    case("oid", &[("4294967295", OK)]),
    case("xid8", &[("'18446744073709551615'", OK)]),
    case("pg_lsn", &[("'FFFFFFFF/FFFFFFFF'", OK)]),
    case("name", &[("'é a'", OK)]),
    case("\"char\"", &[("'a'", OK), ("''", OK)]),
    case("macaddr8", &[("'08:00:2b:01:02:03:04:05'", OK)]),
    case("tsquery", &[("'fat & (rat | !cat:AB*)'", OK)]),
    case("jsonpath", &[("'$.a[*] ? (@ > 1)'", OK)]),
];

const MARIADB_ONLY: &[Case] = &[
    case("uuid", &[("'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", OK)])
        .at(Kind::Uuid, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    case("inet6", &[("'::1'", OK), ("'2001:db8::ff00:42:8329'", OK)]),
    case("inet4", &[("'192.168.0.1'", OK)]),
    case("json", &[(r#"'{"b": 1,  "a":2, "a":3}'"#, OK), ("'12345678901234567890.5'", OK), ("'null'", OK)])
        .loss(&[Mysql]),
    case("time(6)", &[("'-838:59:59.999999'", &[Mysql]), ("'838:59:59.999999'", &[Mysql]), ("'-00:00:00.000001'", OK)]),
];

const MYSQL_ONLY: &[Case] = &[
    case("float", &[("-0e0", &[Sqlite, Mariadb])]).text("CAST(v AS DOUBLE)"),
    case("double", &[("-0e0", &[Sqlite, Mariadb])]),
    case(
        "json",
        &[
            (r#"'{"b": 1,  "a":[true, null, 1.5]}'"#, OK),
            ("'null'", OK),
            ("'18446744073709551615'", OK),
            ("'[-0.0]'", &[Postgres]),
        ],
    )
    .at(Kind::Json, "1"),
    case("time(6)", &[("'-838:59:59'", OK), ("'838:59:59'", OK), ("'-00:00:00.000001'", OK)]),
    case("vector(3)", &[("STRING_TO_VECTOR('[1,-2.5,0]')", OK)]).text("HEX(v)"),
];

const MYSQL_BOTH: &[Case] = &[
    case("tinyint(1)", &[("1", OK), ("0", OK), ("2", NOT_MY), ("-128", NOT_MY)]).at(Kind::Bool, "1"),
    case("tinyint", &[("-128", OK), ("127", OK)]),
    case("tinyint unsigned", &[("0", OK), ("255", OK)]),
    case("smallint", &[("-32768", OK), ("32767", OK)]),
    case("smallint unsigned", &[("65535", OK)]),
    case("mediumint", &[("-8388608", OK), ("8388607", OK)]),
    case("mediumint unsigned", &[("16777215", OK)]),
    case("int", &[("-2147483648", OK), ("2147483647", OK)]),
    case("int unsigned", &[("4294967295", OK)]),
    case("bigint", &[("-9223372036854775808", OK), ("9223372036854775807", OK)]),
    case("bigint unsigned", &[("18446744073709551615", OK), ("0", OK), ("9223372036854775808", OK)])
        .at(Kind::Number, "18446744073709551615"),
    case("year", &[("1901", OK), ("2155", OK), ("0", OK)]).text("CAST(v AS SIGNED)"),
    case("float", &[("0.1", OK), ("16777216", OK), ("3.4028234e38", OK)]).text("CAST(v AS DOUBLE)"),
    case("double", &[("0.1", OK), ("1.7976931348623157e308", OK), ("2.2250738585072014e-308", OK)]),
    case(
        "decimal(65,30)",
        &[
            ("99999999999999999999999999999999999.999999999999999999999999999999", OK),
            ("-0.000000000000000000000000000001", OK),
        ],
    ),
    case("decimal(10,2)", &[("99999999.99", OK), ("-0.01", OK)]).at(Kind::Number, "99999999.99"),
    case("decimal(20,0)", &[("18446744073709551616", OK)]),
    case("decimal(10,2) unsigned", &[("0.01", OK)]),
    case("float unsigned", &[("0.1", OK)]).text("CAST(v AS DOUBLE)"),
    case("double unsigned", &[("0.1", OK)]).at(Kind::Number, "0.1"),
    case("bit(1)", &[("b'1'", OK), ("b'0'", OK)]).text("HEX(v)"),
    case("bit(64)", &[("b'1101'", OK), ("0xFFFFFFFFFFFFFFFF", OK)]).text("HEX(v)").at(Kind::Bits, "1101"),
    case(
        "date",
        &[
            ("'2024-02-29'", OK),
            ("'1000-01-01'", OK),
            ("'9999-12-31'", OK),
            ("'0000-00-00'", NOT_MY),
            ("'2024-00-00'", NOT_MY),
        ],
    )
    .at(Kind::Day, "2024-02-29"),
    case("time", &[("'-838:59:59'", OK), ("'838:59:59'", OK), ("'00:00:00'", OK)]),
    case(
        "datetime(6)",
        &[("'9999-12-31 23:59:59.999999'", OK), ("'1000-01-01 00:00:00'", OK), ("'0000-00-00 00:00:00'", NOT_MY)],
    )
    .at(Kind::Naive, "9999-12-31 23:59:59.999999"),
    case("datetime", &[("'2024-02-29 12:34:56'", OK)]),
    case(
        "timestamp(6)",
        &[("'2038-01-19 03:14:07.999999'", OK), ("'1970-01-01 00:00:01'", OK), ("'0000-00-00 00:00:00'", NOT_MY)],
    )
    .at(Kind::Instant, "2038-01-19 03:14:07.999999"),
    case("char(5)", &[("''", OK), ("'ab'", OK), ("'🦀🦀🦀🦀🦀'", OK)]),
    case("varchar(10)", &[("''", OK), ("'a '", OK), ("REPEAT('🦀', 10)", OK), ("'nul\\0x'", PG)]),
    case("varchar(10) character set latin1", &[("'é ÿ €'", OK)]).at(Kind::Text, "C3A920C3BF20E282AC"),
    case("varchar(10) character set cp1251", &[("'Привет'", OK)]).at(Kind::Text, "D09FD180D0B8D0B2D0B5D182"),
    case("varchar(10) character set sjis", &[("'日本ｱ'", OK)]).at(Kind::Text, "E697A5E69CACEFBDB1"),
    case("varchar(10) character set utf16", &[("'é🦀'", OK)]).at(Kind::Text, "C3A9F09FA680"),
    case("varchar(10) character set utf8mb3", &[("'日本'", OK)]).at(Kind::Text, "E697A5E69CAC"),
    case("tinytext", &[("REPEAT('x', 255)", OK)]),
    case("text", &[("'trailing  '", OK), ("REPEAT('x', 65535)", OK)]),
    case("mediumtext", &[("REPEAT('é', 40000)", OK)]),
    case("longtext", &[("REPEAT('é', 70000)", OK), ("'tab\\tline\\nback\\\\slash'", OK), ("'nul\\0x'", PG)]),
    case("binary(4)", &[("0x00FF2700", OK), ("0x41", OK)]).text("HEX(v)"),
    case("varbinary(4)", &[("0x00FF2700", OK), ("''", OK), ("0x00", OK)]).text("HEX(v)").at(Kind::Bytes, "00FF2700"),
    case("tinyblob", &[("0x00FF", OK)]).text("HEX(v)"),
    case("blob", &[("''", OK), ("REPEAT(0x00FF, 30000)", OK)]).text("HEX(v)"),
    case("mediumblob", &[("REPEAT(0x00FF, 40000)", OK)]).text("HEX(v)"),
    case("longblob", &[("0x0027", OK)]).text("HEX(v)"),
    case("enum('a','it''s','c,d')", &[("'a'", OK), ("'it''s'", OK), ("'c,d'", OK)]),
    case("set('x','y','z')", &[("''", OK), ("'x,z'", OK)]),
    case("geometry", &[("ST_GeomFromText('POINT(1.5 -2)')", OK), ("ST_GeomFromText('POINT(1 2)', 4326)", OK)])
        .text("HEX(v)"),
    case("point", &[("ST_GeomFromText('POINT(1.5 -2)')", OK)]).text("HEX(v)"),
    case("linestring", &[("ST_GeomFromText('LINESTRING(0 0,1 1,2 0.5)')", OK)]).text("HEX(v)"),
    case("polygon", &[("ST_GeomFromText('POLYGON((0 0,4 0,4 4,0 4,0 0),(1 1,2 1,2 2,1 2,1 1))')", OK)]).text("HEX(v)"),
    case("multipoint", &[("ST_GeomFromText('MULTIPOINT(0 0,1 1)')", OK)]).text("HEX(v)"),
    case("multilinestring", &[("ST_GeomFromText('MULTILINESTRING((0 0,1 1),(2 2,3 3))')", OK)]).text("HEX(v)"),
    case("multipolygon", &[("ST_GeomFromText('MULTIPOLYGON(((0 0,1 0,1 1,0 0)))')", OK)]).text("HEX(v)"),
    case("geometrycollection", &[("ST_GeomFromText('GEOMETRYCOLLECTION(POINT(1 1),LINESTRING(0 0,1 1))')", OK)])
        .text("HEX(v)"),
];

const SQLITE: &[Case] = &[
    case(
        "INTEGER",
        &[("-9223372036854775808", OK), ("9223372036854775807", OK), ("1.5", NOT_LITE), ("'abc'", NOT_LITE)],
    ),
    case("BIGINT", &[("9007199254740993", OK)]).at(Kind::Number, "9007199254740993"),
    case("INT8", &[("9223372036854775807", OK)]),
    case("UNSIGNED BIG INT", &[("9223372036854775807", OK)]),
    case("INT", &[("-9223372036854775808", OK)]),
    case("MEDIUMINT", &[("-8388608", OK)]),
    case("TINYINT", &[("-128", OK), ("127", OK)]),
    case("SMALLINT", &[("-32768", OK), ("32767", OK), ("32768", NOT_LITE)]),
    case("BOOLEAN", &[("1", OK), ("0", OK), ("2", NOT_LITE)]).at(Kind::Bool, "1"),
    case(
        "REAL",
        &[("0.1", OK), ("1.7976931348623157e308", OK), ("9007199254740993.0", OK), ("9e999", MY), ("-9e999", MY)],
    ),
    case("DOUBLE PRECISION", &[("5e-300", OK)]),
    case("DOUBLE", &[("0.1", OK)]).at(Kind::Number, "0.1"),
    case("FLOAT", &[("0.1", OK)]),
    case("NUMERIC", &[("1.5", OK), ("0", OK), ("-1000000", OK), ("1e100", MY)]).text("CAST(v AS REAL)"),
    case("NUMERIC(12,2)", &[("1.5", OK), ("9999999999.99", OK), ("1.234", NOT_LITE)]).text("CAST(v AS REAL)"),
    case("DECIMAL(10,5)", &[("12345.67891", OK), ("-0.00001", OK)]).text("CAST(v AS REAL)"),
    case(
        "TEXT",
        &[
            ("''", OK),
            ("'a '", OK),
            ("'é 日本 🦀'", OK),
            ("'007'", OK),
            ("'nul' || char(0) || 'x'", PG),
            ("x'00'", NOT_LITE),
        ],
    ),
    case("VARCHAR(10)", &[("'0123456789'", OK), ("'longer than it says'", NOT_LITE)]),
    case("CHAR(5)", &[("'ab'", OK), ("'ab '", OK)]),
    case("NCHAR(5)", &[("'ab'", OK)]),
    case("NVARCHAR(10)", &[("'é 日本 🦀'", OK)]).at(Kind::Text, "C3A920E697A5E69CAC20F09FA680"),
    case("CLOB", &[("'é 日本 🦀'", OK)]).at(Kind::Text, "C3A920E697A5E69CAC20F09FA680"),
    case("STRING", &[("'abc'", OK), ("''", OK)]),
    case("BLOB", &[("x'00ff2700'", OK), ("x''", OK), ("zeroblob(70000)", OK)]).at(Kind::Bytes, "00FF2700"),
    case("VARBINARY(4)", &[("x'00ff2700'", OK)]),
    case("UUID", &[("'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'", OK)])
        .at(Kind::Uuid, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    case("DATE", &[("'2024-02-29'", OK), ("'9999-12-31'", OK), ("'yesterday'", NOT_LITE), ("'2023-02-29'", NOT_LITE)])
        .at(Kind::Day, "2024-02-29"),
    case("TIME", &[("'23:59:59.999999'", OK), ("'24:30:00'", NOT_LITE)]).at(Kind::Clock, "23:59:59"),
    case(
        "DATETIME(6)",
        &[("'2024-02-29 12:34:56.123456'", OK), ("'0001-01-01 00:00:00.000000'", OK), ("'now'", NOT_LITE)],
    ),
    case("TIMESTAMP", &[("'2024-02-29 12:34:56.123456'", OK)]).at(Kind::Naive, "2024-02-29 12:34:56.123456"),
    case("TIMESTAMPTZ", &[("'2024-02-29 12:34:56.123456+00:00'", OK), ("'1900-01-01 00:00:00.000001+00:00'", MY)])
        .at(Kind::Instant, "2024-02-29 12:34:56.123456"),
    case("JSON", &[(r#"'{"b": 1,  "a":2}'"#, OK), ("'[1,2]'", OK)]).loss(&[Mysql]).at(Kind::Json, "1"),
    case("ANY", &[("1", OK), ("'a'", OK), ("NULL", OK), ("1.5", OK)]).loss(NOT_LITE),
    case("", &[("1", OK), ("'a'", OK), ("NULL", OK)]).loss(NOT_LITE),
];

fn cases(engine: Engine) -> Vec<&'static Case> {
    match engine {
        Sqlite => SQLITE.iter().collect(),
        Postgres => POSTGRES.iter().collect(),
        Mariadb => MYSQL_BOTH.iter().chain(MARIADB_ONLY).collect(),
        Mysql => MYSQL_BOTH.iter().chain(MYSQL_ONLY).collect(),
    }
}

fn table(n: usize) -> String {
    format!("t{n:02}")
}

/// One table for each case, with or without its rows; the first value has id 1, NULL has id 0.
fn fill(db: &TestDb, rows: bool) {
    let engine = db.engine();
    let mut sql = String::new();
    match engine {
        Postgres => sql += "CREATE TYPE mood AS ENUM ('sad', 'very happy', 'it''s');",
        Mariadb | Mysql => sql += "SET sql_mode = '', time_zone = '+00:00';",
        Sqlite => sql += "BEGIN;",
    }
    for (n, case) in cases(engine).iter().enumerate() {
        let name = table(n);
        let null = if case.native.starts_with("timestamp(6)") && engine != Postgres { " NULL" } else { "" };
        let _ = write!(sql, "CREATE TABLE {name} (id INTEGER PRIMARY KEY, v {}{null});", case.native);
        if rows {
            let _ = write!(sql, "INSERT INTO {name} VALUES (0, NULL)");
            for (id, (literal, _)) in case.values.iter().enumerate() {
                let _ = write!(sql, ", ({}, {literal})", id + 1);
            }
            sql += ";";
        }
    }
    if engine == Sqlite {
        sql += "COMMIT";
    }
    db.execute(&sql);
}

/// Rows of a table in the engine's own text, past the program's own reading.
fn own_text(db: &TestDb, name: &str, case: &Case) -> Vec<Vec<Option<String>>> {
    let usual = match db.engine() {
        Postgres => "v::text",
        Mariadb | Mysql => "v",
        Sqlite => {
            "CASE typeof(v) WHEN 'blob' THEN 'x' || hex(v) WHEN 'real' THEN printf('%!.17g', v) ELSE CAST(v AS TEXT) END"
        }
    };
    let text = if case.text.is_empty() { usual } else { case.text };
    db.query(&format!("SELECT id, {text} FROM {name} ORDER BY id"))
}

fn there_and_back(from: Engine, to: Engine) {
    let (source, target, second) = (TestDb::new(from), TestDb::new(to), TestDb::new(from));
    let what = format!("{from:?} -> {to:?}");
    fill(&source, true);
    // The way back ends in columns like those it began in.
    fill(&second, false);
    if to == Sqlite {
        target.execute("PRAGMA user_version = 1");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let plan = rowferry(&["copy", source.url(), target.url(), "--dry-run", "--format", "json"]).json();
    let there = rowferry_in(folder.path(), &["copy", source.url(), target.url(), "--allow-loss", "--format", "json"]);
    let rejects = std::fs::read_to_string(folder.path().join("rowferry-rejects.jsonl")).unwrap_or_default();
    let rejects: Vec<serde_json::Value> =
        rejects.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    let mut faults = Vec::new();
    let mut any_rejected = false;
    for (n, case) in cases(from).iter().enumerate() {
        let name = table(n);
        let kind = case.native;
        let planned = plan["tables"].as_array().into_iter().flatten();
        let planned = planned.into_iter().find(|t| t["table"].as_str().is_some_and(|t| t.ends_with(&name)));
        let declared = planned.is_some_and(|t| t["not_exact"] != serde_json::json!([]));
        if planned.is_none() || declared != case.loss.contains(&to) {
            faults.push(format!("{kind}: a loss is declared: {declared}: {planned:?}"));
        }
        let wanted: BTreeSet<String> = case
            .values
            .iter()
            .enumerate()
            .filter(|(_, (_, by))| from != to && by.contains(&to))
            .map(|(id, _)| (id + 1).to_string())
            .collect();
        let ours = rejects.iter().filter(|r| r["table"].as_str().is_some_and(|t| t.ends_with(&name)));
        let got: BTreeSet<String> =
            ours.clone().map(|r| r["key"]["id"].as_str().unwrap_or_default().to_owned()).collect();
        if got != wanted {
            faults.push(format!("{kind}: rejected {got:?}, expected {wanted:?}: {:?}", ours.collect::<Vec<_>>()));
        }
        any_rejected |= !got.is_empty();
        if !got.is_empty() {
            let list = got.into_iter().collect::<Vec<_>>().join(", ");
            source.execute(&format!("DELETE FROM {name} WHERE id IN ({list})"));
        }
    }
    for (n, case) in cases(from).iter().enumerate() {
        let Some((kind, shown)) = case.at else { continue };
        let seen = target.query(&format!("SELECT {} FROM {} WHERE id = 1", kind.shown(to), table(n)));
        if seen != [[Some(shown.to_owned())]] {
            faults.push(format!("{}: arrived as {seen:?}, expected {shown}", case.native));
        }
    }
    if there.code != i32::from(any_rejected) {
        faults.push(format!("exit {} there: {}\n{}", there.code, there.stderr, there.stdout));
    }
    for (n, _) in cases(from).iter().enumerate().filter(|(_, case)| case.loss.contains(&to)) {
        for db in [&source, &target, &second] {
            db.execute(&format!("DROP TABLE {}", table(n)));
        }
    }
    let back = rowferry(&["copy", target.url(), second.url(), "--allow-loss", "--format", "json"]);
    if back.code != 0 {
        let failed = back.stdout.split('{').filter(|t| !t.ends_with("\"quarantined\":0},")).collect::<String>();
        faults.push(format!("exit {} on the way back: {}\n{failed}", back.code, back.stderr));
    }
    for (n, case) in cases(from).iter().enumerate().filter(|(_, case)| !case.loss.contains(&to)) {
        let (before, after) = (own_text(&source, &table(n), case), own_text(&second, &table(n), case));
        if before != after {
            let short = |rows: &Vec<Vec<Option<String>>>| format!("{rows:?}").chars().take(600).collect::<String>();
            faults.push(format!("{}: came back as {}\n  from {}", case.native, short(&after), short(&before)));
        }
    }
    let differ = rowferry(&["diff", source.url(), second.url(), "--rows"]);
    if differ.code != 0 {
        faults.push(format!("diff: exit {}: {}\n{}", differ.code, differ.stderr, differ.stdout));
    }
    assert!(faults.is_empty(), "{what}:\n{}", faults.join("\n"));
}

macro_rules! pairs {
    ($($name:ident: $a:ident, $b:ident;)*) => {$(
        #[test]
        fn $name() {
            let available = Engine::available();
            if available.contains(&$a) && available.contains(&$b) {
                there_and_back($a, $b);
            }
        }
    )*};
}

pairs! {
    sqlite_sqlite: Sqlite, Sqlite;
    sqlite_postgres: Sqlite, Postgres;
    sqlite_mariadb: Sqlite, Mariadb;
    sqlite_mysql: Sqlite, Mysql;
    postgres_sqlite: Postgres, Sqlite;
    postgres_postgres: Postgres, Postgres;
    postgres_mariadb: Postgres, Mariadb;
    postgres_mysql: Postgres, Mysql;
    mariadb_sqlite: Mariadb, Sqlite;
    mariadb_postgres: Mariadb, Postgres;
    mariadb_mariadb: Mariadb, Mariadb;
    mariadb_mysql: Mariadb, Mysql;
    mysql_sqlite: Mysql, Sqlite;
    mysql_postgres: Mysql, Postgres;
    mysql_mariadb: Mysql, Mariadb;
    mysql_mysql: Mysql, Mysql;
}

const ALL: [Engine; 4] = [Sqlite, Mariadb, Mysql, Postgres];

fn product(engine: Engine) -> &'static str {
    match engine {
        Sqlite => "SQLite",
        Mariadb => "MariaDB",
        Mysql => "MySQL",
        Postgres => "PostgreSQL",
    }
}

/// What each column of `source` means to the program.
fn meanings(source: &TestDb) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let db = open(source.url(), &OpenOptions { create: false, ..OpenOptions::default() }).await.expect("it opens");
        let mut out = Vec::new();
        for n in 0..cases(source.engine()).len() {
            let name = TableName { schema: String::new(), name: table(n) };
            let described = db.describe(&name).await.expect("the catalogue").expect("the table");
            out.push(described.columns[1].logical.to_string());
        }
        out
    })
}

/// The type and the loss at a target, of each case.
fn arrivals(source: &TestDb, to: Engine) -> Vec<String> {
    let target = TestDb::new(to);
    if to == Sqlite {
        target.execute("PRAGMA user_version = 1");
    }
    let plan = rowferry(&["copy", source.url(), target.url(), "--dry-run", "--format", "json"]).json();
    let tables = plan["tables"].as_array().expect("tables");
    let of = |n: usize, case: &Case| {
        let name = table(n);
        let planned = tables.iter().find(|t| t["table"].as_str().is_some_and(|t| t.ends_with(&name))).expect("planned");
        let types = planned["types"].as_array().expect("types");
        let made = types.iter().find(|t| t["column"] == "v").and_then(|t| t["to"].as_str()).unwrap_or(case.native);
        let made = made.split(" character set ").next().unwrap_or_default();
        let loss = planned["not_exact"][0].as_str().and_then(|l| l.split_once(": "));
        loss.map_or_else(|| format!("`{made}`"), |(_, loss)| format!("`{made}`, loses {loss}"))
    };
    cases(source.engine()).iter().enumerate().map(|(n, case)| of(n, case)).collect()
}

/// The page, with `?` for what an engine that is not there would tell.
fn page() -> String {
    let there = Engine::available();
    let mut out = String::from(HEAD);
    for from in ALL {
        let others: Vec<Engine> = ALL.into_iter().filter(|e| *e != from).collect();
        let list = cases(from);
        let unknown = vec!["?".to_owned(); list.len()];
        let source = there.contains(&from).then(|| TestDb::new(from));
        if let Some(source) = &source {
            fill(source, false);
        }
        let means = source.as_ref().map_or_else(|| unknown.clone(), meanings);
        let columns: Vec<Vec<String>> = others
            .iter()
            .map(|to| match &source {
                Some(source) if there.contains(to) => arrivals(source, *to),
                _ => unknown.clone(),
            })
            .collect();
        let names: Vec<&str> = others.iter().map(|e| product(*e)).collect();
        let _ = write!(out, "\n## From {}\n\n| type | means | {} | rejected |\n", product(from), names.join(" | "));
        out += "|---|---|---|---|---|---|\n";
        for (n, case) in list.iter().enumerate() {
            let rejected: Vec<String> = case
                .values
                .iter()
                .filter(|(_, by)| !by.is_empty())
                .map(|(value, by)| {
                    let by: Vec<&str> = by.iter().filter(|e| **e != from).map(|e| product(*e)).collect();
                    format!("`{}` by {}", value.replace('|', "\\|"), by.join(", "))
                })
                .collect();
            let native = if case.native.is_empty() { "none".to_owned() } else { format!("`{}`", case.native) };
            let made: Vec<&str> = columns.iter().map(|c| c[n].as_str()).collect();
            let cells = [native, means[n].clone(), made.join(" | "), rejected.join("; ")];
            let _ = writeln!(out, "| {} |", cells.join(" | "));
        }
    }
    out
}

const HEAD: &str = "# Types

How a column of each engine arrives at the others: the type that `rowferry copy` creates there.
A type stands for exact unless the cell says what it loses; a plan with a loss is refused unless
`--allow-loss` is given. A value that a target cannot hold is never changed to fit: its row is
rejected, with the reason, into the rejects file. The last column names such values, as far as
they were tried; between equal engines nothing is rejected but the value that MySQL and MariaDB
keep for a label that an ENUM does not have.

Exact means that the value comes back the same from there into a column of the type it came from.
The spelling may differ at the target: `1.5` stands as `1.500` in a decimal with three digits, and
the blanks that pad `char(n)` are not part of a value.

Geometries of MySQL and MariaDB arrive elsewhere as the server's own bytes: the number of the system
of reference (SRID) in four bytes, the lowest first, then WKB. A VECTOR is its numbers of 32 bits, one
behind the other, the lowest byte first. Geometric types of PostgreSQL are its text.

Every engine's own type is taken where the value has one there, with these exceptions. A uuid that is part of a key is a
`char(36)` in MariaDB: its UUID is ordered otherwise than by its bytes, so that ranges of keys could not use the index.
ENUM and SET of MySQL and MariaDB are text in PostgreSQL, where such a type is an object of the schema with a name of its
own, which rowferry does not invent; INET4 and INET6 are text because PostgreSQL's `inet` spells some addresses otherwise
and holds networks too, which could not come back.

This page is written by a test that makes each of these journeys. Tried: SQLite (built in),
PostgreSQL 15, MariaDB 10.11 and MySQL 9.7. Older versions are meant to work but were not tried.
";

#[test]
fn the_page_says_what_happens() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/types.md");
    let fresh = page();
    if std::env::var("ROWFERRY_WRITE_DOCS").is_ok_and(|v| v == "1") {
        assert_eq!(Engine::available().len(), ALL.len(), "the page needs every engine");
        std::fs::write(path, &fresh).expect("docs/types.md");
        return;
    }
    let kept = std::fs::read_to_string(path).expect("docs/types.md");
    assert_eq!(kept.lines().count(), fresh.lines().count(), "write it anew with ROWFERRY_WRITE_DOCS=1");
    for (kept, fresh) in kept.lines().zip(fresh.lines()) {
        let same = kept == fresh || kept.split(" | ").zip(fresh.split(" | ")).all(|(k, f)| k == f || f == "?");
        assert!(same, "write it anew with ROWFERRY_WRITE_DOCS=1:\n{kept}\n{fresh}");
    }
}

/// A database whose letters are fewer than those of Unicode: what it has goes both ways, what it lacks is rejected.
#[test]
fn letters_that_a_database_of_latin1_lacks_are_rejected_by_name() {
    let outer = TestDb::new(Postgres);
    let name = format!("{}_latin1", outer.name());
    outer.execute(&format!("CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"));
    let latin = outer.url().replace(outer.name(), &name);
    let (a, back) = (TestDb::new(Sqlite), TestDb::new(Sqlite));
    a.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, s TEXT); INSERT INTO t VALUES (1, 'é ÿ'), (2, '王'), (3, 'z')");
    let folder = tempfile::tempdir().expect("a folder");
    let there = rowferry_in(folder.path(), &["copy", a.url(), &latin]);
    let again = rowferry(&["copy", &latin, back.url()]);
    outer.execute(&format!("DROP DATABASE {name} WITH (FORCE)"));
    assert_eq!((there.code, again.code), (1, 0), "{there:?} {again:?}");
    let rejects = std::fs::read_to_string(folder.path().join("rowferry-rejects.jsonl")).expect("the rejects");
    assert!(rejects.lines().count() == 1 && rejects.contains("\"id\":\"2\""), "{rejects}");
    assert_eq!(rows(&back, "SELECT id, s FROM t ORDER BY id"), "1 é ÿ, 3 z");
}

/// The servers that have this type are newer than those of an ordinary run.
#[test]
fn vectors_of_mariadb_go_as_their_numbers_and_come_back() {
    let a = TestDb::new(Mariadb);
    let made = a.attempt("CREATE TABLE t (id INT PRIMARY KEY, v VECTOR(3) NOT NULL)");
    let version = a.value("SELECT VERSION()");
    let number: Vec<u32> = version.split(['.', '-']).take(2).filter_map(|part| part.parse().ok()).collect();
    assert_eq!(made.is_ok(), number >= vec![11, 7], "{version}: {made:?}");
    if made.is_err() {
        return;
    }
    a.execute("INSERT INTO t VALUES (1, VEC_FromText('[1,-2.5,0]')), (2, VEC_FromText('[3.4e38,1e-45,7]'))");
    for engine in Engine::available() {
        let (b, back) = (TestDb::new(engine), TestDb::new(Mariadb));
        back.execute("CREATE TABLE t (id INT PRIMARY KEY, v VECTOR(3) NOT NULL)");
        for (from, to) in [(&a, &b), (&b, &back)] {
            let copied = rowferry(&["copy", from.url(), to.url()]);
            assert_eq!(copied.code, 0, "{engine:?}: {copied:?}");
        }
        let hex = "SELECT id, HEX(v) FROM t ORDER BY id";
        assert_eq!(rows(&back, hex), rows(&a, hex), "{engine:?}");
    }
}
