//! The tables that are measured: the same rows each time, in every database.

/// A table and how PostgreSQL fills it.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub name: &'static str,
    pub ddl: &'static str,
    /// With `$rows` for their number.
    pub fill: &'static str,
}

pub const ORDERS: Sample = Sample { name: "orders", ddl: ORDERS_DDL, fill: ORDERS_ROWS };

const ORDERS_DDL: &str = "CREATE TABLE orders (\
    id bigint PRIMARY KEY, customer int NOT NULL, seller int, amount numeric(12,2) NOT NULL, \
    currency char(3) NOT NULL, reference varchar(32) NOT NULL, note text NOT NULL, paid boolean NOT NULL, \
    details jsonb NOT NULL, placed timestamptz NOT NULL); CREATE INDEX orders_placed ON orders (placed)";

const ORDERS_ROWS: &str = "INSERT INTO orders SELECT n, (n * 7919) % 50000, \
    CASE WHEN n % 3 = 0 THEN NULL ELSE (n * 31) % 900 END, ((n * 104729) % 100000000)::numeric / 100, \
    (ARRAY['EUR','USD','GBP','JPY'])[1 + n % 4], 'R-' || upper(substr(md5(n::text), 1, 14)), \
    'Order ' || n || ', please ring the bell twice: ' || substr(md5('n' || n), 1, 20), n % 5 <> 0, \
    jsonb_build_object('items', n % 9, 'gift', n % 11 = 0, 'code', substr(md5('d' || n), 1, 8)), \
    timestamptz '2021-03-04 05:06:07.123456+00' + ((n * 7919) % 90000000) * interval '1 second' \
    FROM generate_series(1::bigint, $rows) AS g(n)";

/// 40 columns: the key, 10 whole numbers, 10 texts, 5 decimals, 5 doubles, 5 moments, 4 numbers that may be NULL.
pub const WIDE: Sample = Sample { name: "wide", ddl: WIDE_DDL, fill: WIDE_ROWS };

const WIDE_DDL: &str = "CREATE TABLE wide (id bigint PRIMARY KEY, \
    i1 int NOT NULL, i2 int NOT NULL, i3 int NOT NULL, i4 int NOT NULL, i5 int NOT NULL, i6 int NOT NULL, \
    i7 int NOT NULL, i8 int NOT NULL, i9 int NOT NULL, i10 int NOT NULL, \
    s1 varchar(40) NOT NULL, s2 varchar(40) NOT NULL, s3 varchar(40) NOT NULL, s4 varchar(40) NOT NULL, \
    s5 varchar(40) NOT NULL, s6 varchar(40) NOT NULL, s7 varchar(40) NOT NULL, s8 varchar(40) NOT NULL, \
    s9 varchar(40) NOT NULL, s10 varchar(40) NOT NULL, \
    n1 numeric(12,2) NOT NULL, n2 numeric(12,2) NOT NULL, n3 numeric(12,2) NOT NULL, n4 numeric(12,2) NOT NULL, \
    n5 numeric(12,2) NOT NULL, \
    d1 float8 NOT NULL, d2 float8 NOT NULL, d3 float8 NOT NULL, d4 float8 NOT NULL, d5 float8 NOT NULL, \
    t1 timestamptz NOT NULL, t2 timestamptz NOT NULL, t3 timestamptz NOT NULL, t4 timestamptz NOT NULL, \
    t5 timestamptz NOT NULL, z1 int, z2 int, z3 int, z4 int)";

const WIDE_ROWS: &str = "INSERT INTO wide SELECT n, \
    n % 7, n % 100, n % 1000, n * 3, n * 5, -n, n % 31, n % 60, n * 2, n + 9, \
    'name ' || n, 'street ' || n % 9999, md5(n::text), 'town ' || n % 500, 'EUR', 'open', 'north', md5('x' || n), \
    'R-' || n, 'some more text ' || n % 77, \
    n % 1000000 / 100.0, n % 77777 / 100.0, n % 31 / 10.0, -(n % 5000) / 100.0, n::numeric, \
    n / 7.0::float8, sqrt(n::float8), n * 1e-3::float8, ln(n::float8 + 1), -n / 3.0::float8, \
    m.t, m.t + interval '1 day', m.t + interval '90 minutes', m.t - interval '3 years', date_trunc('second', m.t), \
    CASE WHEN n % 2 = 0 THEN n END, CASE WHEN n % 3 = 0 THEN n END, CASE WHEN n % 5 = 0 THEN n END, NULL \
    FROM generate_series(1::int, $rows) AS g(n), \
    LATERAL (SELECT timestamptz '2021-03-04 05:06:07.123456+00' + (n % 9000000) * interval '1 second' AS t) m";

/// Few bytes to a row, for the memory that many rows take.
pub const NARROW: Sample = Sample {
    name: "narrow",
    ddl: "CREATE TABLE narrow (id bigint PRIMARY KEY, a int NOT NULL, b varchar(40) NOT NULL)",
    fill: "INSERT INTO narrow SELECT n, n % 1000, md5(n::text) FROM generate_series(1::int, $rows) AS g(n)",
};

/// Rows of a mebibyte.
pub const LARGE: Sample = Sample {
    name: "large",
    ddl: "CREATE TABLE large (id bigint PRIMARY KEY, a text NOT NULL)",
    fill: "INSERT INTO large SELECT n, repeat(md5(n::text), 32768) FROM generate_series(1::int, $rows) AS g(n)",
};

/// Rows of 64 mebibytes.
pub const HUGE: Sample = Sample {
    name: "huge",
    ddl: "CREATE TABLE huge (id bigint PRIMARY KEY, a text NOT NULL)",
    fill: "INSERT INTO huge SELECT n, repeat(md5(n::text), 2097152) FROM generate_series(1::int, $rows) AS g(n)",
};
