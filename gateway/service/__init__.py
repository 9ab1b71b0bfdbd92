"""What every service process needs: lifecycle, HTTP servers, TLS, logs and readiness."""
