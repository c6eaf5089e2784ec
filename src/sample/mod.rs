//! The sample database of the demo and the tests: thirty-odd tables as shops, schools and fleets
//! have them. The same seed gives the same rows.

use std::fmt::Write as _;

mod random;

use random::Random;

/// The tables, as statements of SQLite.
#[must_use]
pub fn shop_schema() -> &'static str {
    include_str!("schema.sql")
}

/// Rows of one INSERT at most.
const ROWS_PER_INSERT: u64 = 200;

/// Statements that fill the tables of [`shop_schema`], about 9000 rows for each step of `scale`.
///
/// Each reference is to a row that is there already, so foreign keys may be on; the last
/// statement closes the cycle of departments and their heads. Made one at a time: the memory that
/// it takes does not grow with `scale`.
pub fn rows(scale: u64, seed: u64) -> impl Iterator<Item = String> {
    let world = World { seed, scale: scale.max(1) };
    let tables = (0_u64..).zip(TABLES);
    tables
        .flat_map(move |(number, table)| {
            let count = (table.count)(&world);
            (0..count.div_ceil(ROWS_PER_INSERT)).map(move |batch| {
                let mut sql = format!("INSERT INTO {} VALUES", table.into);
                let first = batch * ROWS_PER_INSERT;
                for index in first..count.min(first + ROWS_PER_INSERT) {
                    let row = (table.row)(&world, index, &mut Random::new(seed, number, index));
                    let separator = if index == first { "\n" } else { ",\n" };
                    write!(sql, "{separator}({row})").expect("writing to a String");
                }
                sql
            })
        })
        .chain(std::iter::once_with(|| {
            "UPDATE departments SET head_id = \
             (SELECT min(id) FROM employees WHERE employees.department_id = departments.id)"
                .to_owned()
        }))
}

#[derive(Clone, Copy)]
struct World {
    seed: u64,
    scale: u64,
}

/// How to fill one table.
struct Filling {
    /// Name and columns.
    into: &'static str,
    /// How many rows.
    count: fn(&World) -> u64,
    /// The values of the row at an index from 0.
    row: fn(&World, u64, &mut Random) -> String,
}

const COUNTRIES: [(&str, &str, &str, bool); 10] = [
    ("DE", "Deutschland", "EUR", true),
    ("EG", "مصر", "EGP", false),
    ("CN", "中国", "CNY", false),
    ("IN", "भारत", "INR", false),
    ("GR", "Ελλάδα", "EUR", true),
    ("NG", "Nigeria", "NGN", false),
    ("JP", "日本", "JPY", false),
    ("UA", "Україна", "UAH", false),
    ("CI", "Côte d'Ivoire", "XOF", false),
    ("IL", "ישראל", "ILS", false),
];
const GIVEN: [&str; 16] = [
    "Ada",
    "محمد",
    "伟",
    "अनन्या",
    "Zoë",
    "Ngozi",
    "さくら",
    "Олена",
    "Seán",
    "فاطمة",
    "芳",
    "राहुल",
    "Łukasz",
    "Γιώργος",
    "נועה",
    "Chidi 🚕",
];
const FAMILY: [&str; 13] = [
    "O'Brien",
    "الهاشمي",
    "王",
    "शर्मा",
    "Müller",
    "Okonkwo",
    "田中",
    "Шевченко",
    "D'Angelo",
    "Nguyễn",
    "Παπαδόπουλος",
    "כהן",
    "Smith-Jones",
];
const GOODS: [&str; 12] = [
    "Teapot ☕",
    "自行车",
    "قلم رصاص",
    "चाय",
    "Crème brûlée set",
    "5\" nail",
    "Хліб",
    "Notebook, A5",
    "お弁当箱",
    "Wrench 3/8\"",
    "Globe 🌍",
    "50% wool\tblanket",
];
const REMARKS: [&str; 8] = [
    "It's fine.",
    "two\nlines",
    "",
    "👩‍👩‍👧‍👦 family pack",
    "back\\slash and \"quotes\"",
    "عرض خاص، ٥٠٪",
    "trailing space ",
    "NULL",
];
const ROLES: [&str; 6] = ["admin", "cashier", "driver", "teacher", "viewer", "परीक्षक"];
const BRANCHES: u64 = 5;
const DEPARTMENTS: u64 = BRANCHES * 4;
const CATEGORIES: u64 = 40;
const WAREHOUSES: u64 = 6;
const COURSES: u64 = 20;

impl World {
    fn employees(&self) -> u64 {
        60 * self.scale
    }
    fn users(&self) -> u64 {
        50 * self.scale
    }
    fn suppliers(&self) -> u64 {
        12 * self.scale
    }
    fn products(&self) -> u64 {
        300 * self.scale
    }
    fn customers(&self) -> u64 {
        500 * self.scale
    }
    fn orders(&self) -> u64 {
        1000 * self.scale
    }
    fn students(&self) -> u64 {
        200 * self.scale
    }
    fn vehicles(&self) -> u64 {
        15 * self.scale
    }
    fn drivers(&self) -> u64 {
        10 * self.scale
    }

    /// The key of a user or supplier, so that others can refer to it.
    fn uuid(&self, kind: u64, index: u64) -> String {
        Random::new(self.seed, 1000 + kind, index).uuid()
    }

    /// Product, quantity and unit price in cents of a line of an order.
    fn item(&self, order: u64, line: u64) -> (u64, u64, u64) {
        let mut random = Random::new(self.seed, 2000 + line, order);
        (1 + random.below(self.products()), 1 + random.below(9), random.below(500_000))
    }
}

const USER: u64 = 1;
const SUPPLIER: u64 = 2;

fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

/// `sql`, or NULL once in `rarity`.
fn maybe(random: &mut Random, rarity: u64, sql: String) -> String {
    if random.below(rarity) == 0 { "NULL".to_owned() } else { sql }
}

fn money(cents: u64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

fn boolean(value: bool) -> &'static str {
    if value { "TRUE" } else { "FALSE" }
}

/// One of `list`, round and round.
fn nth<T: Copy>(list: &[T], index: u64) -> T {
    list[usize::try_from(index).unwrap_or_default() % list.len()]
}

fn person(random: &mut Random) -> String {
    format!("{} {}", random.pick(&GIVEN), random.pick(&FAMILY))
}

/// Each table once, a referenced table before the tables that refer to it.
const TABLES: &[Filling] = &[
    Filling {
        into: "countries (code, name, currency, in_union)",
        count: |_| 10,
        row: |_, i, _| {
            let (code, name, currency, in_union) = nth(&COUNTRIES, i);
            format!("'{code}', {}, '{currency}', {}", text(name), boolean(in_union))
        },
    },
    Filling {
        into: "branches (id, country_code, name, opened_on, latitude, longitude)",
        count: |_| BRANCHES,
        row: |_, i, r| {
            let (code, name, ..) = nth(&COUNTRIES, i);
            let place = format!("{}.{}, -{}.{}", r.below(90), r.below(10_000), r.below(180), r.below(10_000));
            format!("{}, '{code}', {}, '{}', {place}", i + 1, text(&format!("Branch {name}")), r.date())
        },
    },
    Filling {
        into: "departments (id, branch_id, name)",
        count: |_| DEPARTMENTS,
        row: |_, i, _| {
            let name = nth(&["Sales", "Lager & Versand", "教学", "النقل"], i);
            format!("{}, {}, {}", i + 1, i / 4 + 1, text(name))
        },
    },
    Filling {
        into: "employees (id, department_id, manager_id, full_name, email, salary, hired_on, active, updated_at)",
        count: World::employees,
        row: |_, i, r| {
            let manager = if i == 0 { "NULL".to_owned() } else { (1 + (i - 1) / 5).to_string() };
            format!(
                "{}, {}, {manager}, {}, 'employee{}@example.com', {}, '{}', {}, '{}'",
                i + 1,
                i % DEPARTMENTS + 1,
                text(&person(r)),
                i + 1,
                money(150_000 + r.below(900_000)),
                r.date(),
                boolean(r.below(10) > 0),
                r.moment()
            )
        },
    },
    Filling {
        into: "users (id, employee_id, login, settings, last_seen)",
        count: World::users,
        row: |w, i, r| {
            let settings =
                format!("{{\"theme\": \"{}\", \"tabs\": [{}, null]}}", r.pick(&["dark", "hell ☀"]), r.below(9));
            let seen = format!("'{}.{:06}+00:00'", r.moment(), r.below(1_000_000));
            format!("'{}', {}, 'user{}', '{settings}', {}", w.uuid(USER, i), i + 1, i + 1, maybe(r, 6, seen))
        },
    },
    Filling {
        into: "roles (name, note)",
        count: |_| 6,
        row: |_, i, r| format!("'{}', {}", nth(&ROLES, i), text(r.pick(&REMARKS))),
    },
    Filling {
        into: "user_roles (user_id, role_name, granted_at)",
        count: |w| 2 * w.users(),
        row: |w, i, r| {
            let role = nth(&ROLES, i / 2 + 3 * (i % 2));
            format!("'{}', '{role}', '{}+02:00'", w.uuid(USER, i / 2), r.moment())
        },
    },
    Filling {
        into: "categories (id, parent_id, name, position)",
        count: |_| CATEGORIES,
        row: |_, i, r| {
            let parent = if i < 8 { "NULL".to_owned() } else { (i / 4).to_string() };
            format!("{}, {parent}, {}, {}", i + 1, text(&format!("{} {}", nth(&GOODS, i), i + 1)), r.below(100))
        },
    },
    Filling {
        into: "suppliers (id, country_code, name, contact)",
        count: World::suppliers,
        row: |w, i, r| {
            let country = format!("'{}'", nth(&COUNTRIES, i).0);
            let contact = text(&format!("{{\"name\": \"{}\", \"phones\": [\"+{}\"]}}", person(r), r.below(1 << 40)));
            let name = text(&format!("{} & Söhne", r.pick(&FAMILY)));
            format!("'{}', {}, {name}, {}", w.uuid(SUPPLIER, i), maybe(r, 8, country), maybe(r, 5, contact))
        },
    },
    Filling {
        into: "products (id, sku, name, description, price, weight_kg, attributes, discontinued, supplier_id, created_at, \
               updated_at)",
        count: World::products,
        row: |w, i, r| {
            let name = text(&format!("{} {}", r.pick(&GOODS), i + 1));
            let description = text(r.pick(&REMARKS));
            let weight = format!("{}.{:03}", r.below(60), r.below(1000));
            let attributes =
                format!("'{{\"colour\": \"bleu clair\", \"sizes\": [{}, 2.5], \"new\": true}}'", r.below(50));
            let supplier = format!("'{}'", w.uuid(SUPPLIER, i % w.suppliers()));
            format!(
                "{}, 'SKU-{:06}', {name}, {}, {}, {}, {}, {}, {}, '{}', '{}'",
                i + 1,
                i + 1,
                maybe(r, 4, description),
                money(r.below(2_000_000)),
                maybe(r, 5, weight),
                maybe(r, 3, attributes),
                boolean(r.below(12) == 0),
                maybe(r, 7, supplier),
                r.moment(),
                r.moment()
            )
        },
    },
    Filling {
        into: "product_categories (product_id, category_id)",
        count: |w| 2 * w.products(),
        row: |_, i, _| format!("{}, {}", i / 2 + 1, ((i / 2) * 7 + 13 * (i % 2)) % CATEGORIES + 1),
    },
    Filling {
        into: "product_pictures (id, product_id, picture, thumbnail)",
        count: |w| w.products() / 5,
        row: |_, i, r| {
            let thumbnail = format!("x'{}'", r.hex(32));
            // the first is empty, which is not NULL
            let bytes = if i == 0 { 0 } else { 64 + r.below(600) };
            format!("{}, {}, x'{}', {}", i + 1, i * 5 + 1, r.hex(bytes), maybe(r, 3, thumbnail))
        },
    },
    Filling {
        into: "price_history (product_id, valid_from, price)",
        count: |w| 3 * w.products(),
        row: |_, i, r| format!("{}, '{}-01-01', {}", i / 3 + 1, 2021 + i % 3, money(r.below(2_000_000))),
    },
    Filling {
        into: "warehouses (code, branch_id, name)",
        count: |_| WAREHOUSES,
        row: |_, i, r| format!("'W-{}', {}, {}", i + 1, i % BRANCHES + 1, text(&format!("Depot {}", r.pick(&FAMILY)))),
    },
    Filling {
        into: "stock (warehouse_code, product_id, quantity, counted_at)",
        count: |w| 2 * w.products(),
        row: |_, i, r| {
            let counted = format!("'{}'", r.moment());
            format!(
                "'W-{}', {}, {}, {}",
                (i / 2 + i % 2) % WAREHOUSES + 1,
                i / 2 + 1,
                r.below(5000),
                maybe(r, 4, counted)
            )
        },
    },
    Filling {
        into: "stock_movements (id, warehouse_code, product_id, change, reason, moved_at)",
        count: |w| 3 * w.products(),
        row: |w, i, r| {
            let product = i % w.products();
            let reason = text(r.pick(&["sold", "broken 💔", "पुनः भंडारण", "it's gone"]));
            format!(
                "{}, 'W-{}', {}, {}{}, {}, '{}'",
                i + 1,
                product % WAREHOUSES + 1,
                product + 1,
                r.pick(&["", "-"]),
                1 + r.below(50),
                maybe(r, 5, reason),
                r.moment()
            )
        },
    },
    Filling {
        into: "customers (id, name, email, phone, country_code, credit_limit, vip, preferences, born_on, note, updated_at)",
        count: World::customers,
        row: |_, i, r| {
            let email = format!("'customer{}@example.com'", i + 1);
            let phone = format!("'+{}'", 100_000_000 + r.below(9_000_000_000));
            let country = format!("'{}'", r.pick(&COUNTRIES).0);
            let preferences =
                format!("'{{\"newsletter\": {}, \"lang\": \"zh-Hans\"}}'", r.pick(&["true", "false", "null"]));
            let born = format!("'{}'", r.date_in(1930));
            let note = text(r.pick(&REMARKS));
            format!(
                "{}, {}, {}, {}, {}, {}, {}, {}, {}, {}, '{}'",
                i + 1,
                text(&person(r)),
                maybe(r, 9, email),
                maybe(r, 3, phone),
                maybe(r, 9, country),
                money(r.below(1_000_000_000_000)),
                boolean(r.below(20) == 0),
                maybe(r, 2, preferences),
                maybe(r, 4, born),
                maybe(r, 2, note),
                r.moment()
            )
        },
    },
    Filling {
        into: "addresses (customer_id, number, street, city, postcode)",
        count: |w| w.customers() + w.customers() / 5,
        row: |w, i, r| {
            let street =
                text(&format!("{} {}", r.pick(&["Rue de l'Église", "长安街", "شارع النيل", "Main St"]), r.below(200)));
            let city = text(r.pick(&["Αθήνα", "Lagos", "上海", "القاهرة", "Abidjan", "Köln"]));
            // leading zeros must stay
            let postcode = format!("'{:05}'", r.below(100_000));
            let (customer, number) = (i % w.customers() + 1, i / w.customers() + 1);
            format!("{customer}, {number}, {street}, {city}, {}", maybe(r, 6, postcode))
        },
    },
    Filling {
        into: r#""order" (id, customer_id, employee_id, status, "group", total, placed_at, updated_at)"#,
        count: World::orders,
        row: |w, i, r| {
            let total = (1..=3).map(|line| w.item(i + 1, line)).map(|(_, quantity, cents)| quantity * cents).sum();
            let employee = (1 + r.below(w.employees())).to_string();
            let group = text(r.pick(&["wholesale", "ਪੰਜਾਬ", "A/B"]));
            format!(
                "{}, {}, {}, '{}', {}, {}, '{}.{:03}+00:00', '{}'",
                i + 1,
                1 + r.below(w.customers()),
                maybe(r, 4, employee),
                r.pick(&["new", "paid", "sent", "done", "returned"]),
                maybe(r, 2, group),
                money(total),
                r.moment(),
                r.below(1000),
                r.moment()
            )
        },
    },
    Filling {
        into: "order_items (order_id, line, product_id, quantity, unit_price, discount)",
        count: |w| 3 * w.orders(),
        row: |w, i, r| {
            let (order, line) = (i / 3 + 1, i % 3 + 1);
            let (product, quantity, cents) = w.item(order, line);
            let discount = if r.below(5) == 0 { money(r.below(5000)) } else { "NULL".to_owned() };
            format!("{order}, {line}, {product}, {quantity}, {}, {discount}", money(cents))
        },
    },
    Filling {
        into: "payments (id, order_id, amount, currency, paid_at, receipt)",
        count: |w| w.orders() * 4 / 5,
        row: |_, i, r| {
            let paid = format!("'{}+00:00'", r.moment());
            let receipt = format!("'{{\"no\": {}, \"lines\": []}}'", r.below(1 << 50));
            format!(
                "'{}', {}, {}, '{}', {}, {}",
                r.uuid(),
                i + 1,
                money(r.below(5_000_000)),
                r.pick(&COUNTRIES).2,
                maybe(r, 6, paid),
                maybe(r, 3, receipt)
            )
        },
    },
    Filling {
        into: "reviews (product_id, customer_id, stars, text)",
        count: |w| 400 * w.scale,
        row: |w, i, r| {
            let review = text(&format!("{} {}", r.pick(&["👍", "很好", "ممتاز", "ठीक है", "meh"]), r.pick(&REMARKS)));
            let (product, customer) = (i % w.products() + 1, i % w.customers() + 1);
            format!("{product}, {customer}, {}, {}", 1 + r.below(5), maybe(r, 3, review))
        },
    },
    Filling {
        into: "students (id, full_name, born_on, guardian_id, portrait)",
        count: World::students,
        row: |w, i, r| {
            let guardian = (1 + r.below(w.customers())).to_string();
            let born = r.date_in(2005);
            let portrait = if r.below(10) == 0 { format!("x'{}'", r.hex(300)) } else { "NULL".to_owned() };
            format!("{}, {}, '{born}', {}, {portrait}", i + 1, text(&person(r)), maybe(r, 5, guardian))
        },
    },
    Filling {
        into: "courses (code, title, teacher_id, starts_at, fee)",
        count: |_| COURSES,
        row: |w, i, r| {
            let starts = format!("'{:02}:{:02}:00'", 7 + r.below(12), r.below(4) * 15);
            let title = text(&format!("{} {}", r.pick(&["Mathématiques", "书法", "اللغة العربية", "संगीत"]), i + 1));
            let fee = money(r.below(100_000));
            format!("'C{:03}', {title}, {}, {starts}, {}", i + 1, 1 + r.below(w.employees()), maybe(r, 4, fee))
        },
    },
    Filling {
        into: "enrolments (student_id, course_code, enrolled_on)",
        count: |w| 2 * w.students(),
        row: |_, i, r| format!("{}, 'C{:03}', '{}'", i / 2 + 1, (i / 2 + 7 * (i % 2)) % COURSES + 1, r.date()),
    },
    Filling {
        into: "grades (student_id, course_code, term, grade)",
        count: |w| 2 * w.students(),
        row: |_, i, r| {
            let grade = format!("{}.{}", 1 + r.below(5), r.below(100));
            let course = (i / 2 + 7 * (i % 2)) % COURSES + 1;
            format!("{}, 'C{course:03}', '{}H', {}", i / 2 + 1, 1 + r.below(2), maybe(r, 8, grade))
        },
    },
    Filling {
        into: "vehicles (plate, branch_id, model, mileage_km, electric)",
        count: World::vehicles,
        row: |_, i, r| {
            let model = text(r.pick(&["Škoda Octavia", "五菱宏光", "Keke 🛺", "Tuk-tuk"]));
            let branch = (1 + r.below(BRANCHES)).to_string();
            let electric = boolean(r.below(3) == 0);
            format!("'KJA-{:04}', {}, {model}, {}, {electric}", i + 1, maybe(r, 5, branch), r.below(900_000))
        },
    },
    Filling {
        into: "drivers (id, employee_id, plate, licence)",
        count: World::drivers,
        row: |w, i, r| {
            let plate = format!("'KJA-{:04}'", i % w.vehicles() + 1);
            format!("{}, {}, {}, 'L-{:08}'", i + 1, i + 1, maybe(r, 6, plate), r.below(100_000_000))
        },
    },
    Filling {
        into: "trips (id, driver_id, order_id, started_at, distance_km, track)",
        count: |w| 300 * w.scale,
        row: |w, i, r| {
            let order = (1 + r.below(w.orders())).to_string();
            let track = format!("'[[{}.{}, 3.5], [6.1, -0.25]]'", r.below(90), 1 + r.below(99));
            format!(
                "{}, {}, {}, '{}+01:00', {}.{}, {}",
                i + 1,
                1 + r.below(w.drivers()),
                maybe(r, 3, order),
                r.moment(),
                r.below(400),
                r.below(100),
                maybe(r, 4, track)
            )
        },
    },
    Filling {
        into: r#""Sheet 1" ("tool name", vendor, "price (€)", "it's ""new""")"#,
        count: |_| 40,
        row: |_, i, r| {
            let vendor = text(r.pick(&FAMILY));
            let price = money(r.below(90_000));
            let name = text(&format!("{} №{}", nth(&GOODS, i), i + 1));
            format!("{name}, {}, {}, {}", maybe(r, 5, vendor), maybe(r, 5, price), boolean(r.below(2) == 0))
        },
    },
    Filling {
        into: r#""naïve ☕" ("ключ", "值", "select", "☺")"#,
        count: |_| 30,
        row: |_, i, r| {
            let value = text(r.pick(&REMARKS));
            format!("'ключ-{}', {}, {}, '{}'", i + 1, maybe(r, 4, value), r.below(100), r.pick(&["🙂", "🙃", "👍🏽"]))
        },
    },
    Filling {
        into: "access_log (at, login, path, status)",
        count: |w| 500 * w.scale,
        // without a key, and some rows occur twice
        row: |w, i, r| {
            let mut twin = Random::new(w.seed, 3000, i / 10 * 10);
            let r = if i % 10 < 2 { &mut twin } else { r };
            let login = format!("'user{}'", 1 + r.below(w.users()));
            let path = text(&format!("/shop/{}?q=caf%C3%A9", r.below(1000)));
            format!("'{}', {}, {path}, {}", r.moment(), maybe(r, 3, login), r.pick(&[200, 304, 404, 500]))
        },
    },
    Filling {
        into: "settings (scope, name, content, secret)",
        count: |_| 25,
        row: |_, i, r| {
            let content = text(r.pick(&REMARKS));
            format!("'scope{}', 'name{}', {content}, {}", i / 5, i % 5, boolean(r.below(5) == 0))
        },
    },
];
