-- Roles and databases, made or brought up to date at every start; psql reads the passwords itself. An owner migrates its
-- database and, of tenants, is who the admin commands work as; the others get by with less.
\set ON_ERROR_STOP on
\set tenants_owner `cat /run/secrets/postgres-tenants-owner`
\set tenants_reader `cat /run/secrets/postgres-tenants-reader`
\set status_owner `cat /run/secrets/postgres-status-owner`
\set status `cat /run/secrets/postgres-status`

SELECT format('CREATE ROLE %I', name)
    FROM unnest(ARRAY['tenants_owner', 'tenants_reader', 'status_owner', 'status']) AS name
    WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec
ALTER ROLE tenants_owner LOGIN PASSWORD :'tenants_owner';
ALTER ROLE tenants_reader LOGIN PASSWORD :'tenants_reader';
ALTER ROLE status_owner LOGIN PASSWORD :'status_owner';
ALTER ROLE status LOGIN PASSWORD :'status';

SELECT format('CREATE DATABASE %I OWNER %I', name, name || '_owner')
    FROM unnest(ARRAY['tenants', 'status']) AS name
    WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = name) \gexec
REVOKE ALL ON DATABASE tenants, status, postgres FROM PUBLIC;
GRANT CONNECT ON DATABASE tenants TO tenants_reader;
GRANT CONNECT ON DATABASE status TO status;

-- What the owner makes later falls under the default privileges.
\connect tenants
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO tenants_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO tenants_reader;
ALTER DEFAULT PRIVILEGES FOR ROLE tenants_owner IN SCHEMA public GRANT SELECT ON TABLES TO tenants_reader;

\connect status
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO status;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO status;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO status;
ALTER DEFAULT PRIVILEGES FOR ROLE status_owner IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO status;
ALTER DEFAULT PRIVILEGES FOR ROLE status_owner IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO status;
