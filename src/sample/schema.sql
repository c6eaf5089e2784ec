-- What shops, schools and fleets keep, in thirty-odd tables: every kind of key, reference and name
-- that a copy must survive.

-- people and places

CREATE TABLE countries (
  code CHAR(2) PRIMARY KEY NOT NULL,
  name VARCHAR(100) NOT NULL,
  currency CHAR(3) NOT NULL DEFAULT 'EUR',
  in_union BOOLEAN NOT NULL DEFAULT FALSE
);

CREATE TABLE branches (
  id INTEGER PRIMARY KEY,
  country_code CHAR(2) NOT NULL REFERENCES countries (code) ON DELETE RESTRICT ON UPDATE CASCADE,
  name VARCHAR(120) NOT NULL,
  opened_on DATE,
  latitude DOUBLE PRECISION,
  longitude DOUBLE PRECISION
);

-- departments and employees refer to each other; employees to themselves
CREATE TABLE departments (
  id INTEGER PRIMARY KEY,
  branch_id INTEGER NOT NULL REFERENCES branches (id) ON DELETE CASCADE,
  name VARCHAR(80) NOT NULL,
  head_id INTEGER REFERENCES employees (id) ON DELETE SET NULL,
  UNIQUE (branch_id, name)
);

CREATE TABLE employees (
  id INTEGER PRIMARY KEY,
  department_id INTEGER NOT NULL REFERENCES departments (id) ON DELETE RESTRICT,
  manager_id INTEGER REFERENCES employees (id) ON DELETE SET NULL,
  full_name VARCHAR(200) NOT NULL,
  email VARCHAR(190) NOT NULL UNIQUE,
  salary NUMERIC(12,2) NOT NULL DEFAULT 0.00,
  hired_on DATE NOT NULL,
  active BOOLEAN NOT NULL DEFAULT TRUE,
  updated_at DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX employees_by_manager ON employees (manager_id);
CREATE INDEX employees_by_department ON employees (department_id);

CREATE TABLE users (
  id UUID PRIMARY KEY NOT NULL,
  employee_id INTEGER UNIQUE REFERENCES employees (id) ON DELETE SET NULL,
  login VARCHAR(60) NOT NULL UNIQUE,
  settings JSON NOT NULL DEFAULT '{}',
  last_seen TIMESTAMPTZ
);

CREATE TABLE roles (
  name VARCHAR(40) PRIMARY KEY NOT NULL,
  note TEXT
);

CREATE TABLE user_roles (
  user_id UUID NOT NULL REFERENCES users (id) ON DELETE CASCADE,
  role_name VARCHAR(40) NOT NULL REFERENCES roles (name) ON DELETE CASCADE ON UPDATE CASCADE,
  granted_at TIMESTAMPTZ NOT NULL,
  PRIMARY KEY (user_id, role_name)
);

-- goods

CREATE TABLE categories (
  id INTEGER PRIMARY KEY,
  parent_id INTEGER REFERENCES categories (id) ON DELETE CASCADE,
  name VARCHAR(120) NOT NULL,
  position SMALLINT NOT NULL DEFAULT 0
);
CREATE INDEX categories_by_parent ON categories (parent_id, position);

CREATE TABLE suppliers (
  id UUID PRIMARY KEY NOT NULL,
  country_code CHAR(2) REFERENCES countries (code) ON DELETE SET NULL ON UPDATE CASCADE,
  name VARCHAR(200) NOT NULL,
  contact JSON
);

CREATE TABLE products (
  id INTEGER PRIMARY KEY,
  sku VARCHAR(40) NOT NULL UNIQUE,
  name VARCHAR(200) NOT NULL,
  description TEXT,
  price NUMERIC(12,2) NOT NULL,
  weight_kg DOUBLE PRECISION,
  attributes JSON,
  discontinued BOOLEAN NOT NULL DEFAULT FALSE,
  supplier_id UUID REFERENCES suppliers (id) ON DELETE SET NULL,
  created_at DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP,
  updated_at DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX products_by_price ON products (discontinued, price);

CREATE TABLE product_categories (
  product_id INTEGER NOT NULL REFERENCES products (id) ON DELETE CASCADE,
  category_id INTEGER NOT NULL REFERENCES categories (id) ON DELETE CASCADE,
  PRIMARY KEY (product_id, category_id)
);

CREATE TABLE product_pictures (
  id INTEGER PRIMARY KEY,
  product_id INTEGER NOT NULL REFERENCES products (id) ON DELETE CASCADE,
  media_type VARCHAR(60) NOT NULL DEFAULT 'image/png',
  picture BLOB NOT NULL,
  thumbnail BLOB
);

CREATE TABLE price_history (
  product_id INTEGER NOT NULL REFERENCES products (id) ON DELETE CASCADE,
  valid_from DATE NOT NULL,
  price NUMERIC(12,2) NOT NULL,
  PRIMARY KEY (product_id, valid_from)
);

CREATE TABLE warehouses (
  code VARCHAR(12) PRIMARY KEY NOT NULL,
  branch_id INTEGER NOT NULL REFERENCES branches (id) ON DELETE RESTRICT,
  name VARCHAR(120) NOT NULL
);

CREATE TABLE stock (
  warehouse_code VARCHAR(12) NOT NULL REFERENCES warehouses (code) ON DELETE RESTRICT ON UPDATE CASCADE,
  product_id INTEGER NOT NULL REFERENCES products (id) ON DELETE RESTRICT,
  quantity INTEGER NOT NULL DEFAULT 0,
  counted_at DATETIME,
  PRIMARY KEY (warehouse_code, product_id)
);

-- a reference to a composite key
CREATE TABLE stock_movements (
  id INTEGER PRIMARY KEY,
  warehouse_code VARCHAR(12) NOT NULL,
  product_id INTEGER NOT NULL,
  change INTEGER NOT NULL,
  reason VARCHAR(200),
  moved_at DATETIME NOT NULL,
  FOREIGN KEY (warehouse_code, product_id) REFERENCES stock (warehouse_code, product_id)
    ON DELETE CASCADE ON UPDATE CASCADE
);
CREATE INDEX stock_movements_by_item ON stock_movements (warehouse_code, product_id, moved_at);

-- customers and their orders

CREATE TABLE customers (
  id INTEGER PRIMARY KEY,
  name VARCHAR(200) NOT NULL,
  email VARCHAR(190) UNIQUE,
  phone VARCHAR(40),
  country_code CHAR(2) REFERENCES countries (code) ON DELETE SET NULL ON UPDATE CASCADE,
  credit_limit NUMERIC(12,2) NOT NULL DEFAULT 0.00,
  vip BOOLEAN NOT NULL DEFAULT FALSE,
  preferences JSON,
  born_on DATE,
  note TEXT,
  updated_at DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX customers_by_name ON customers (name);

CREATE TABLE addresses (
  customer_id INTEGER NOT NULL REFERENCES customers (id) ON DELETE CASCADE,
  number SMALLINT NOT NULL,
  street VARCHAR(200) NOT NULL,
  city VARCHAR(120) NOT NULL,
  postcode VARCHAR(20),
  PRIMARY KEY (customer_id, number)
);

CREATE TABLE "order" (
  id INTEGER PRIMARY KEY,
  customer_id INTEGER NOT NULL REFERENCES customers (id) ON DELETE RESTRICT,
  employee_id INTEGER REFERENCES employees (id) ON DELETE SET NULL,
  status VARCHAR(20) NOT NULL DEFAULT 'new',
  "group" VARCHAR(40),
  total NUMERIC(12,2) NOT NULL DEFAULT 0.00,
  placed_at TIMESTAMPTZ NOT NULL,
  updated_at DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE INDEX order_by_customer ON "order" (customer_id, placed_at);
CREATE INDEX order_by_status ON "order" (status);

CREATE TABLE order_items (
  order_id INTEGER NOT NULL REFERENCES "order" (id) ON DELETE CASCADE,
  line SMALLINT NOT NULL,
  product_id INTEGER NOT NULL REFERENCES products (id) ON DELETE RESTRICT,
  quantity INTEGER NOT NULL DEFAULT 1,
  unit_price NUMERIC(12,2) NOT NULL,
  discount NUMERIC(5,2),
  PRIMARY KEY (order_id, line)
);
CREATE INDEX order_items_by_product ON order_items (product_id);

CREATE TABLE payments (
  id UUID PRIMARY KEY NOT NULL,
  order_id INTEGER NOT NULL REFERENCES "order" (id) ON DELETE RESTRICT,
  amount NUMERIC(12,2) NOT NULL,
  currency CHAR(3) NOT NULL DEFAULT 'EUR',
  paid_at TIMESTAMPTZ,
  receipt JSON
);

CREATE TABLE reviews (
  product_id INTEGER NOT NULL REFERENCES products (id) ON DELETE CASCADE,
  customer_id INTEGER NOT NULL REFERENCES customers (id) ON DELETE CASCADE,
  stars SMALLINT NOT NULL,
  text TEXT,
  PRIMARY KEY (product_id, customer_id)
);

-- school

CREATE TABLE students (
  id INTEGER PRIMARY KEY,
  full_name VARCHAR(200) NOT NULL,
  born_on DATE,
  guardian_id INTEGER REFERENCES customers (id) ON DELETE SET NULL,
  portrait BLOB
);

CREATE TABLE courses (
  code VARCHAR(20) PRIMARY KEY NOT NULL,
  title VARCHAR(200) NOT NULL,
  teacher_id INTEGER REFERENCES employees (id) ON DELETE SET NULL,
  starts_at TIME,
  fee NUMERIC(12,2)
);

CREATE TABLE enrolments (
  student_id INTEGER NOT NULL REFERENCES students (id) ON DELETE CASCADE,
  course_code VARCHAR(20) NOT NULL REFERENCES courses (code) ON DELETE CASCADE ON UPDATE CASCADE,
  enrolled_on DATE NOT NULL,
  PRIMARY KEY (student_id, course_code)
);

CREATE TABLE grades (
  student_id INTEGER NOT NULL,
  course_code VARCHAR(20) NOT NULL,
  term VARCHAR(10) NOT NULL,
  grade NUMERIC(4,2),
  PRIMARY KEY (student_id, course_code, term),
  FOREIGN KEY (student_id, course_code) REFERENCES enrolments (student_id, course_code) ON DELETE CASCADE ON UPDATE CASCADE
);

-- fleet

CREATE TABLE vehicles (
  plate VARCHAR(16) PRIMARY KEY NOT NULL,
  branch_id INTEGER REFERENCES branches (id) ON DELETE SET NULL,
  model VARCHAR(80) NOT NULL,
  mileage_km BIGINT NOT NULL DEFAULT 0,
  electric BOOLEAN NOT NULL DEFAULT FALSE
);

CREATE TABLE drivers (
  id INTEGER PRIMARY KEY,
  employee_id INTEGER NOT NULL UNIQUE REFERENCES employees (id) ON DELETE CASCADE,
  plate VARCHAR(16) REFERENCES vehicles (plate) ON DELETE SET NULL ON UPDATE CASCADE,
  licence VARCHAR(40) NOT NULL
);

CREATE TABLE trips (
  id INTEGER PRIMARY KEY,
  driver_id INTEGER NOT NULL REFERENCES drivers (id) ON DELETE CASCADE,
  order_id INTEGER REFERENCES "order" (id) ON DELETE SET NULL,
  started_at TIMESTAMPTZ NOT NULL,
  distance_km DOUBLE PRECISION,
  track JSON
);

-- names that need care, and a table without a key

CREATE TABLE "Sheet 1" (
  "tool name" VARCHAR(120) NOT NULL,
  vendor VARCHAR(120),
  "price (€)" NUMERIC(12,2),
  "it's ""new""" BOOLEAN NOT NULL DEFAULT TRUE,
  UNIQUE ("tool name", vendor)
);

CREATE TABLE "naïve ☕" (
  "ключ" VARCHAR(60) PRIMARY KEY NOT NULL,
  "值" TEXT,
  "select" INTEGER DEFAULT 7,
  "☺" VARCHAR(20) DEFAULT '🙂'
);

CREATE TABLE access_log (
  at DATETIME NOT NULL,
  login VARCHAR(60),
  path TEXT NOT NULL,
  status SMALLINT NOT NULL DEFAULT 200
);
CREATE INDEX access_log_by_time ON access_log (at);

CREATE TABLE settings (
  scope VARCHAR(40) NOT NULL,
  name VARCHAR(80) NOT NULL,
  content TEXT NOT NULL DEFAULT '',
  secret BOOLEAN NOT NULL DEFAULT FALSE,
  PRIMARY KEY (scope, name)
);
