"""What every service process needs: lifecycle, gRPC and HTTP servers, TLS, logs and readiness."""
