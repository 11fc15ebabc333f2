create role doorward login password 'DATABASE_PASSWORD';
create database doorward owner doorward;
