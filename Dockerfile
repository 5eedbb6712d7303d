# The router alone, as a user without rights. Build: docker build -t homing:0.1.0 .
FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY router router
COPY policies policies
RUN python -m venv /opt/homing && /opt/homing/bin/pip install --no-cache-dir '.[kubernetes,redis]'

FROM python:3.11-slim
RUN groupadd --gid 10001 homing && useradd --uid 10001 --gid 10001 --no-create-home homing
COPY --from=build /opt/homing /opt/homing
USER 10001:10001
EXPOSE 8080 8081
ENTRYPOINT ["/opt/homing/bin/homing"]
CMD ["--help"]
