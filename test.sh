#!/usr/bin/env bash
# Starts private database servers, runs every test against them, and leaves nothing behind.
#
#   ./test.sh          all tests
#   ./test.sh --long   with the long ones, and all once more against newer servers
#   ./test.sh -- ARGS  ARGS go to cargo test (a test's name, --test it, …)
#   ./test.sh --run COMMAND ARGS…   another command than cargo test, with the same servers
#   ./test.sh --durable …           servers that wait for the disk, as in production
#
# Each server listens on 127.0.0.1 at a free port, with its data in one temporary folder. Servers
# that already run on this machine are neither used nor touched.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

long=
durable=
run=(cargo test --locked)
while [ $# -gt 0 ]; do
  case $1 in
    --long) long=1; shift ;;
    --durable) durable=1; shift ;;
    --run) shift; run=(); break ;;
    --) shift; break ;;
    -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "test.sh: unknown option '$1' (known: --long, --durable, --run, --help, -- ARGS)" >&2; exit 2 ;;
  esac
done

PATH=$PATH:/usr/sbin:/sbin
is_root() { [ "$(id -u)" = 0 ]; }

# --- what stops again, whatever happens ---

# Servers by process id: each was started by this script, as the leader of its own session, so
# that a Ctrl-C on the terminal reaches this script alone, which then stops them in order.
pids=()
tests= # the same for cargo or the command
work=

stop_all() {
  local status=$? pid
  trap - EXIT
  trap '' INT TERM HUP # a second Ctrl-C must not leave servers behind
  [ -z "$tests" ] || kill -TERM -- "-$tests" 2>/dev/null || true
  for pid in "${pids[@]}"; do kill -INT "$pid" 2>/dev/null || true; done # fast stop for postgres
  for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
  for pid in "${pids[@]}"; do
    for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
  done
  [ -z "$work" ] || rm -rf --one-file-system "$work"
  exit "$status"
}
trap stop_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# --- programs ---

# A program in PATH or in the folders where distributions hide servers; the newest one.
find_program() {
  command -v "$1" && return
  local found
  found=$(ls -d /usr/lib/postgresql/*/bin/"$1" /usr/libexec/"$1" 2>/dev/null | sort -V | tail -n 1)
  [ -n "$found" ] && echo "$found"
}

find_all() {
  mariadbd=$(find_program mariadbd) && mariadb_install=$(find_program mariadb-install-db) \
    && initdb=$(find_program initdb) && postgres=$(find_program postgres)
}

# Installs packages without letting their services start.
apt_install() {
  local policy=/usr/sbin/policy-rc.d ours= status=0
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy && ours=1
  fi
  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"; } \
    </dev/null >"$work/apt.log" 2>&1 || status=$?
  [ -z "$ours" ] || rm -f $policy
  return $status
}

work=$(mktemp -d "${TMPDIR:-/tmp}/rowferry-test.XXXXXX")
chmod 755 "$work"

if ! find_all; then
  if is_root && command -v apt-get >/dev/null; then
    echo "Installing MariaDB and PostgreSQL (mariadb-server, postgresql)"
    apt_install mariadb-server postgresql || { tail -n 20 "$work/apt.log" >&2; echo "test.sh: could not install mariadb-server and postgresql" >&2; exit 2; }
  fi
  find_all || {
    echo "test.sh: needs the servers MariaDB (mariadbd, mariadb-install-db) and PostgreSQL (initdb, postgres); on Debian and Ubuntu: apt-get install mariadb-server postgresql" >&2
    exit 2
  }
fi

# PostgreSQL refuses to run as root, so root lends it another user.
server_user=
if is_root; then
  for name in postgres nobody; do
    if id "$name" >/dev/null 2>&1; then server_user=$name; break; fi
  done
fi
# The command in front of one that must not run as root; exec keeps the process id.
unprivileged=()
[ -z "$server_user" ] \
  || unprivileged=(setpriv --reuid "$server_user" --regid "$(id -g "$server_user")" --clear-groups env "HOME=$work")

give_folder() {
  mkdir "$1"
  [ -z "$server_user" ] || chown "$server_user" "$1"
}

# --- ports ---

port_is_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# A port below the range that the system hands out by itself, on which nothing answers now. Another
# process may still take it first: then the server fails to start and the caller tries another.
free_port() {
  local port
  for _ in $(seq 200); do
    port=$((12000 + RANDOM % 18000))
    port_is_open $port || { echo $port; return; }
  done
  return 1
}

# Waits up to SECONDS until the server PID says in LOG that it is ready; fails when it has ended.
wait_for() {
  local pid=$1 log=$2 seconds=$3
  for _ in $(seq $((seconds * 10))); do
    grep -q -E 'ready (to accept|for) connections' "$log" && return 0
    kill -0 "$pid" 2>/dev/null || return 1
    sleep 0.1
  done
  return 1
}

# Starts `CMD… PORT-OPTION=PORT` in the background until one port works. Sets `port` and `pid`.
start_server() {
  local log=$1 seconds=$2 option=$3
  shift 3
  for _ in 1 2 3 4 5; do
    port=$(free_port)
    : >"$log"
    LC_ALL=C setsid "$@" "$option=$port" </dev/null >>"$log" 2>&1 &
    pid=$!
    pids+=("$pid")
    wait_for "$pid" "$log" "$seconds" && return 0
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    unset "pids[-1]"
    grep -qi -E 'address already in use|bind on tcp' "$log" || return 1
  done
  return 1
}

fail() {
  echo "test.sh: $1" >&2
  [ ! -f "$2" ] || tail -n 20 "$2" >&2
  exit 2
}

# --- servers ---
# Each function starts one server: NAME of its folder and logs, SEEN (where the server itself sees
# that folder), its programs, and then the command to put before them. Sets `port` and `pid`, or
# `reason` on failure.

pg_settings=(-c fsync=off -c synchronous_commit=off -c full_page_writes=off -c autovacuum=off)
my_settings=(--innodb-flush-log-at-trx-commit=0 --innodb-flush-method=nosync --sync-binlog=0)
if [ -n "$durable" ]; then
  pg_settings=()
  my_settings=(--innodb-flush-log-at-trx-commit=1 --sync-binlog=1)
fi

# What a log says last of what went wrong.
last_line() { { grep -E "ERROR|FATAL" "$1" || cat "$1"; } | tail -n 1 | cut -c 1-200; }

start_postgres() {
  local name=$1 seen=$2 initdb=$3 postgres=$4
  shift 4
  "$@" "$initdb" -D "$seen/data" -U postgres --auth=trust --encoding=UTF8 --locale=C.UTF-8 --no-sync \
    </dev/null >"$work/$name-init.log" 2>&1 || { reason="initdb failed: $(last_line "$work/$name-init.log")"; return 1; }
  start_server "$work/$name.log" 60 --port "$@" "$postgres" -D "$seen/data" \
    -c listen_addresses=127.0.0.1 -c "unix_socket_directories=$seen" \
    -c wal_level=logical -c max_wal_senders=50 -c max_replication_slots=50 -c max_connections=300 \
    "${pg_settings[@]}" -c timezone=UTC \
    || { reason="it did not start: $(last_line "$work/$name.log")"; return 1; }
}

# What MariaDB and MySQL have in common; options that only one knows follow the command.
start_my() {
  local name=$1 seen=$2
  shift 2
  start_server "$work/$name.log" 60 --port "$@" --datadir="$seen/data" \
    --bind-address=127.0.0.1 --socket="$seen/s" --pid-file="$seen/pid" --tmpdir="$seen" \
    --max-connections=300 --max-allowed-packet=256M --default-time-zone=+00:00 "${my_settings[@]}" \
    || { reason="it did not start: $(last_line "$work/$name.log")"; return 1; }
}

start_mariadb() {
  local name=$1 seen=$2 install=$3 mariadbd=$4
  shift 4
  # --force: a folder of its own may know no names of hosts, and none are used.
  "$@" "$install" --no-defaults --force --datadir="$seen/data" --auth-root-authentication-method=normal \
    --skip-test-db --skip-name-resolve </dev/null >"$work/$name-init.log" 2>&1 \
    || { reason="mariadb-install-db failed: $(last_line "$work/$name-init.log")"; return 1; }
  start_my "$name" "$seen" "$@" "$mariadbd" --no-defaults --log-bin=binlog --binlog-format=ROW --server-id=1 \
    --local-infile=1 --skip-name-resolve
}

start_mysql() {
  local name=$1 seen=$2 mysqld=$3
  shift 3
  timeout 120 "$@" "$mysqld" --no-defaults --initialize-insecure --datadir="$seen/data" </dev/null \
    >"$work/$name-init.log" 2>&1 || { reason="initialising failed: $(last_line "$work/$name-init.log")"; return 1; }
  start_my "$name" "$seen" "$@" "$mysqld" --no-defaults --secure-file-priv= --mysqlx=OFF --local-infile=0 --server-id=2
}

# --- servers that this system's packages do not have ---
# They come from another suite of Debian and run in folders of their own with just the libraries
# that they need. All are optional.

cache=${ROWFERRY_TEST_CACHE:-${HOME:-/root}/.cache/rowferry-tests}

# Fetches PACKAGE of SUITE into $cache/NAME, unless PROGRAM is there already. Prints the reason on failure.
fetch() {
  local name=$1 suite=$2 package=$3 program=$4 made
  [ -x "$cache/$name$program" ] && return
  if ! command -v debootstrap >/dev/null; then
    apt_install debootstrap || { echo "debootstrap could not be installed"; return 1; }
  fi
  # What a run that was killed half-way left behind.
  find "$cache" -maxdepth 1 -name "$name.??????" -mmin +60 -exec rm -rf --one-file-system {} + 2>/dev/null || true
  mkdir -p "$cache" && made=$(mktemp -d "$cache/$name.XXXXXX") || { echo "cannot write to $cache"; return 1; }
  # In namespaces of its own: when it is stopped half-way, nothing runs on and nothing stays mounted.
  if timeout --foreground -k 10 600 unshare --mount --pid --fork --kill-child debootstrap --variant=minbase "--include=$package" "$suite" "$made" \
    </dev/null >"$work/debootstrap.log" 2>&1 && [ -x "$made$program" ]; then
    rm -rf "$made"/var/cache/apt/archives/*.deb "$made"/var/lib/apt/lists/* "$made/usr/share/doc"
    chmod 755 "$made"
    mv -T "$made" "$cache/$name" 2>/dev/null || rm -rf --one-file-system "$made" # another run was first
    [ -x "$cache/$name$program" ] && return
    echo "cannot write to $cache"
  else
    echo "$package of Debian $suite cannot be fetched: $(last_line "$work/debootstrap.log")"
    rm -rf --one-file-system "$made"
  fi
  return 1
}

# Makes NAME ready to run in its own folder; `inside` is then the command before each of its
# programs, which see $work/NAME as /srv and run as nobody.
make_inside() {
  local name=$1 ids
  is_root || { reason="only root can run it from its own folder (chroot)"; return 1; }
  reason=$(fetch "$@") || return 1
  ids=$(id -u nobody):$(id -g nobody)
  mkdir "$work/$name"
  chown "$ids" "$work/$name"
  # The mounts are those of the server's own namespace: they go when the server goes, and two runs
  # of this script do not meet.
  inside=(unshare --mount --propagation private -- sh -c
    'mount --bind "$1" "$2/srv" && mount -t tmpfs tmpfs "$2/dev/shm" && root=$2 && ids=$3 && shift 3 && exec chroot --userspec="$ids" "$root" "$@"'
    inside "$work/$name" "$cache/$name" "$ids")
}

version_of() { "$@" --version | tr -s ' ' | cut -d '[' -f 1; }

# --- the servers of every run ---

give_folder "$work/postgres"
start_postgres postgres "$work/postgres" "$initdb" "$postgres" "${unprivileged[@]}" \
  || fail "PostgreSQL: $reason" "$work/postgres.log"
export ROWFERRY_TEST_POSTGRES="postgres://postgres@127.0.0.1:$port/postgres"
echo "PostgreSQL: $(version_of "$postgres") on port $port"

give_folder "$work/mariadb"
start_mariadb mariadb "$work/mariadb" "$mariadb_install" "$mariadbd" "${unprivileged[@]}" \
  || fail "MariaDB: $reason" "$work/mariadb.log"
export ROWFERRY_TEST_MARIADB="mysql://root@127.0.0.1:$port/mysql"
echo "MariaDB: $(version_of "$mariadbd" --no-defaults) on port $port"

unset ROWFERRY_TEST_MYSQL
reason=ROWFERRY_TEST_MYSQL_SKIP=1
if [ "${ROWFERRY_TEST_MYSQL_SKIP:-}" != 1 ] && make_inside mysql-sid sid mysql-server-core /usr/sbin/mysqld \
  && start_mysql mysql-sid /srv /usr/sbin/mysqld "${inside[@]}"; then
  export ROWFERRY_TEST_MYSQL="mysql://root@127.0.0.1:$port/mysql"
  echo "MySQL: $(version_of chroot "$cache/mysql-sid" /usr/sbin/mysqld --no-defaults) on port $port"
else
  echo "MySQL left out: $reason"
fi

# For tests that stop, lock out or fill a server of their own: its programs, run as it must be run.
mkdir "$work/bin"
for program in "$initdb" "$postgres" "$mariadb_install" "$mariadbd"; do
  { echo '#!/bin/sh'; printf '%q ' exec "${unprivileged[@]}" "$program"; echo '"$@"'; } >"$work/bin/${program##*/}"
done
chmod 755 "$work/bin"/*
export ROWFERRY_TEST_BIN=$work/bin

# --- the tests ---

run_tests() {
  local status=0
  setsid "${run[@]}" "$@" </dev/null &
  tests=$!
  wait "$tests" || status=$?
  tests=
  return "$status"
}

export ROWFERRY_TEST_DBS=required
# Tests wait for servers and for each other's programs half of the time.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((2 * $(nproc)))}
status=0
[ -z "$long" ] || export ROWFERRY_TEST_LONG=1
run_tests "$@" || status=$?
[ -n "$long" ] || exit "$status"

# --- the same once more, against newer servers ---

newer=
if make_inside postgresql-testing testing postgresql-18 /usr/lib/postgresql/18/bin/postgres \
  && start_postgres postgresql-testing /srv /usr/lib/postgresql/18/bin/initdb /usr/lib/postgresql/18/bin/postgres "${inside[@]}"; then
  export ROWFERRY_TEST_POSTGRES="postgres://postgres@127.0.0.1:$port/postgres"
  newer=1
  echo "PostgreSQL: $(version_of chroot "$cache/postgresql-testing" /usr/lib/postgresql/18/bin/postgres) on port $port"
else
  echo "PostgreSQL 18 left out: $reason"
fi
if make_inside mariadb-testing testing mariadb-server-core,mariadb-client-core /usr/sbin/mariadbd \
  && start_mariadb mariadb-testing /srv /usr/bin/mariadb-install-db /usr/sbin/mariadbd "${inside[@]}"; then
  export ROWFERRY_TEST_MARIADB="mysql://root@127.0.0.1:$port/mysql"
  newer=1
  echo "MariaDB: $(version_of chroot "$cache/mariadb-testing" /usr/sbin/mariadbd --no-defaults) on port $port"
else
  echo "MariaDB 11.8 left out: $reason"
fi
[ -z "$newer" ] || run_tests "$@" || status=$?
exit "$status"
